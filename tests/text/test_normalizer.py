"""Each stage of normalisation, alone and together."""

from __future__ import annotations

import unicodedata

import pytest

from tests.text.samples import TEXTS
from vitral.errors import VitralError
from vitral.text.normalizer import Normalizer


@pytest.mark.parametrize(
    ("stages", "before", "after"),
    [
        ({}, " Ação  ﬁ ² ", " Ação  ﬁ ² "),
        ({"form": "NFC"}, "e\u0301 ﬁ", "é ﬁ"),
        ({"form": "NFKC"}, "e\u0301 ﬁ ² Ａ", "é fi 2 A"),
        ({"lowercase": True}, "ÁBC ß", "ábc ß"),
        ({"strip_accents": True}, "Ação pão 각", "Acao pao 각"),
        ({"squeeze_spaces": True}, "  a \n\t b\u3000c ", "a b c"),
        ({"form": "NFKC", "lowercase": True, "strip_accents": True, "squeeze_spaces": True}, " ÀÉ  ﬁ\n", "ae fi"),
    ],
)
def test_stages(stages: dict[str, object], before: str, after: str) -> None:
    assert Normalizer(**stages)(before) == after  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_forms_are_unicode_s(form: str) -> None:
    for text in TEXTS:
        known = all(unicodedata.category(character) != "Cn" for character in text)
        if known:  # the two libraries may know different versions of Unicode
            assert Normalizer(form=form)(text) == unicodedata.normalize(form, text)  # type: ignore[arg-type]


def test_an_unknown_form() -> None:
    with pytest.raises(VitralError, match="form is 'NFX'"):
        Normalizer(form="NFX")  # type: ignore[arg-type]

"""Normalisation: what becomes of a text before it is cut. Explicit, since what is lost here no model ever sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenizers import Regex, normalizers

from vitral.errors import VitralError

Form = Literal["NFC", "NFKC"]
_FORMS = {"NFC": normalizers.NFC, "NFKC": normalizers.NFKC}


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """The stages, applied in the order of the fields. The default changes nothing.

    `form` composes characters (Unicode Annex 15): NFC keeps what they look like, NFKC also unifies variants (ﬁ → fi,
    ² → 2). `strip_accents` takes off combining marks (é → e). `squeeze_spaces` makes each run of white space one space
    and takes it off the ends.
    """

    form: Form | None = None
    lowercase: bool = False
    strip_accents: bool = False
    squeeze_spaces: bool = False

    def __post_init__(self) -> None:
        if self.form is not None and self.form not in _FORMS:
            raise VitralError(f"form is {self.form!r:.20}", "Give NFC, NFKC or None", param="form")

    def stages(self) -> list[normalizers.Normalizer]:
        """The stages as `tokenizers` objects."""
        stages: list[normalizers.Normalizer] = []
        if self.form is not None:
            stages.append(_FORMS[self.form]())
        if self.lowercase:
            stages.append(normalizers.Lowercase())
        if self.strip_accents:
            stages += [normalizers.NFD(), normalizers.StripAccents()]
            stages.append(_FORMS[self.form or "NFC"]())
        if self.squeeze_spaces:
            stages += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
        return stages

    def __call__(self, text: str) -> str:
        """`text` after all stages."""
        return normalizers.Sequence(self.stages()).normalize_str(text)

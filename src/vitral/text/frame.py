"""What stands around an encoded text: BOS, EOS, CLS and SEP, as the post-processor of a `tokenizers` object."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer as Core
from tokenizers import processors


def set_frame(core: Core, *, before: Sequence[int] = (), after: Sequence[int] = ()) -> None:
    """Puts the tokens `before` and `after` around each text, and around both texts of a pair."""

    def template(letter: str, segment: int) -> list[str]:
        names = [*(f"t{id}" for id in before), f"${letter}", *(f"t{id}" for id in after)]
        return [f"{name}:{segment}" for name in names]

    core.post_processor = processors.TemplateProcessing(
        single=template("A", 0),
        pair=template("A", 0) + template("B", 1),
        special_tokens=[{"id": f"t{id}", "ids": [id], "tokens": [core.id_to_token(id)]} for id in {*before, *after}],
    )


def set_bert_frame(core: Core, cls: int, sep: int) -> None:
    """[CLS] A [SEP], and [CLS] A [SEP] B [SEP] with segment 1 for B."""
    names = {id: core.id_to_token(id) for id in (cls, sep)}
    core.post_processor = processors.TemplateProcessing(
        single=[f"{names[cls]}:0", "$A:0", f"{names[sep]}:0"],
        pair=[f"{names[cls]}:0", "$A:0", f"{names[sep]}:0", "$B:1", f"{names[sep]}:1"],
        special_tokens=[(name, id) for id, name in names.items()],
    )

"""How a published checkpoint names its tensors, as data. `weights/names.py` follows these rules in both directions.

    NAMES = Names(prefix="model.", rules={
        "embed_tokens.weight": "embed.tokens.weight",
        "layers.{}.self_attn.q_proj.{}": "stack.blocks.{}.attn.mixer.q.{}",
        "h.{}.attn.c_attn.weight": Transposed(Split(...)),
    })

Each `{}` stands for one dotted part and keeps its place on both sides. Every operation can be undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Split:
    """One tensor of the file holds several parameters, one after the other along its first axis, in equal shares."""

    into: tuple[str, ...]


@dataclass(frozen=True)
class Transposed:
    """A matrix (or a stack of them) stored as in × out, turned to out × in before anything else."""

    to: str | Split


@dataclass(frozen=True)
class Stacked:
    """One of several tensors of the file that the model holds as one: the last `{}` of the name in the file is its
    place along the parameter's first axis, and stands for nothing in the parameter's name.
    """

    into: str


@dataclass(frozen=True)
class Leading:
    """A tensor of the file with `ones` axes of length one before those of the parameter."""

    to: str
    ones: int = 1


Rule = str | Split | Transposed | Stacked | Leading


@dataclass(frozen=True, kw_only=True)
class Names:
    """The name map of a family.

    Args:
        rules: name in the file → parameter, or an operation that leads to parameters.
        prefix: what stands before every name in files of the whole model and is absent in files of its body alone;
            names in `bare` never have it.
        bare: names (patterns) that stand outside the prefix.
        ignore: names (patterns) of buffers that some files carry and that are computed here.
        old: (ending, today's ending) pairs that old files use.
        tied: file name → file name of the tensor it repeats when the model ties them.
    """

    rules: Mapping[str, Rule]
    prefix: str = ""
    bare: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    old: tuple[tuple[str, str], ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)


OWN = Names(rules={name: name for name in (".".join(["{}"] * parts) for parts in range(2, 13))})
"""The map of families of which no file was published: their files use the names that the parameters have here."""

"""What the family files share: a card, and the frame around a list of blocks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import nn

from vitral.errors import CheckpointError
from vitral.families.common.config import Config, is_body
from vitral.nn import (
    Block,
    Embed,
    Head,
    Learned,
    Model,
    Pooler,
    Spec,
    Stack,
    Sublayer,
    Table,
    Tied,
    Transform,
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """Who published the family, when and where, and under what licence its weights are."""

    title: str
    year: int
    org: str
    kind: str
    source: str
    idea: str
    licence: str


def share(whole: str, n: int, parts: str, m: int, remedy: str = "") -> int:
    """n / m, where the config's key `whole` is to be divided evenly by its key `parts`."""
    if n % m:
        raise CheckpointError(f"config.json: {whole} {n} is not a multiple of {parts} {m}", remedy)
    return n // m


def sizes(c: Config, d: int) -> dict[str, int]:
    """The sizes of an attention of width d, as Llama-style configs give them, checked against each other."""
    n_heads = c.size("num_attention_heads")
    n_kv_heads = c.size("num_key_value_heads", n_heads)
    share("num_attention_heads", n_heads, "num_key_value_heads", n_kv_heads)
    if c.get("head_dim", None) is None:
        head_dim = share("hidden_size", d, "num_attention_heads", n_heads, "Give head_dim")
    else:
        head_dim = c.size("head_dim")
    return {"d_model": d, "n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_dim": head_dim}


def pre_norm(norm: Spec, attention: Spec, ffn: Spec) -> Spec:
    """A block that normalises what goes into each sublayer."""
    return Spec(
        Block,
        attn=Spec(Sublayer, mixer=attention, pre=norm.replace()),
        ffn=Spec(Sublayer, mixer=ffn, pre=norm.replace()),
    )


def post_norm(norm: Spec, attention: Spec, ffn: Spec) -> Spec:
    """A block that normalises after each residual addition."""
    return Spec(
        Block,
        attn=Spec(Sublayer, mixer=attention, after=norm.replace()),
        ffn=Spec(Sublayer, mixer=ffn, after=norm.replace()),
    )


def decoder(
    c: Config, *, d: int, blocks: Sequence[Spec], norm: Spec, context: int, positions: Spec | None = None
) -> Spec:
    """Token table, stack and vocabulary head: tied to the table, of its own, or none for a body saved alone."""
    vocab = c.size("vocab_size")
    table = Spec(Table, n=vocab, d=d)
    if c.flag("tie_word_embeddings"):
        head: Spec | None = Spec(Head, proj=Spec(Tied, table=table))
    elif is_body(c.data):
        head = None
    else:
        head = Spec(Head, proj=Spec(nn.Linear, in_features=d, out_features=vocab, bias=False))
    c.finish()
    return Spec(
        Model,
        embed=Spec(Embed, tokens=table, positions=positions),
        stack=Spec(Stack, blocks=list(blocks), norm=norm),
        head=head,
        context=context,
    )


def encoder(
    c: Config, *, d: int, blocks: Sequence[Spec], norm: Spec, act: Spec, context: int, heads: Collection[str]
) -> Spec:
    """Tokens, learned positions and segments, normalised; a stack; and those of the three heads that are asked for.

    Args:
        act: activation of the masked-token head's transform.
        heads: "masked" (guess a token), "pooler" (a text as one vector), "next" (does one text follow the other?).
    """
    vocab, tied = c.size("vocab_size"), c.flag("tie_word_embeddings")
    table = Spec(Table, n=vocab, d=d)
    proj = Spec(Tied, table=table) if tied else Spec(nn.Linear, in_features=d, out_features=vocab)
    transform = Spec(Transform, d=d, act=act, norm=norm.replace())
    segments = Spec(Table, n=c.size("type_vocab_size"), d=d)
    c.finish()
    return Spec(
        Model,
        embed=Spec(
            Embed, tokens=table, positions=Spec(Learned, n=context, d=d), segments=segments, norm=norm.replace()
        ),
        stack=Spec(Stack, blocks=list(blocks)),
        head=Spec(Head, proj=proj, transform=transform, bias=vocab if tied else None) if "masked" in heads else None,
        pooler=Spec(Pooler, d=d) if "pooler" in heads else None,
        classifier=Spec(nn.Linear, in_features=d, out_features=2) if "next" in heads else None,
        context=context,
    )

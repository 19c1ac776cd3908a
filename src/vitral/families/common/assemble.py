"""What the family files share: a card, and the frame around a list of blocks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from vitral.errors import CheckpointError
from vitral.families.common.config import Config, architecture, is_body
from vitral.nn import (
    Block,
    Embed,
    Head,
    Learned,
    Model,
    Pooler,
    Shift,
    Spec,
    Stack,
    Sublayer,
    Table,
    Tied,
    Transform,
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """Who published the family, when and where, what it brought, and under what licence its weights are.

    Args:
        source: where its numbers are printed.
        idea: what it brought, in one line.
        licence: of the published weights; "closed" where they were never released, "unknown" where we cannot say.
        licences: preset → its licence, for those that differ.
        traps: mistakes that were made with this family, and that the tests here look for.
        facts: what its authors published beyond the numbers of the presets.
        unpublished: what they did not publish.
        stand_in: the open family here with the same capability, where the weights are closed.
        recipe: how it was trained, as far as that was published.
    """

    title: str
    year: int
    org: str
    kind: str
    source: str
    idea: str
    licence: str
    licences: Mapping[str, str] = field(default_factory=dict)
    traps: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    unpublished: tuple[str, ...] = ()
    stand_in: str = ""
    recipe: str = ""

    def licence_of(self, preset: str) -> str:
        """The licence of one preset's published weights."""
        return self.licences.get(preset, self.licence)


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


def pre_norm(norm: Spec, attention: Spec, ffn: Spec, *, cross: Spec | None = None) -> Spec:
    """A block that normalises what goes into each sublayer; with `cross` one of a decoder that reads an encoder."""
    mixers = {"attn": attention, "cross": cross, "ffn": ffn}
    sublayers = {name: Spec(Sublayer, mixer=each, pre=norm.replace()) for name, each in mixers.items() if each}
    return Spec(Block, **sublayers)


def post_norm(norm: Spec, attention: Spec, ffn: Spec, *, cross: Spec | None = None) -> Spec:
    """A block that normalises after each residual addition; with `cross` one of a decoder that reads an encoder."""
    mixers = {"attn": attention, "cross": cross, "ffn": ffn}
    sublayers = {name: Spec(Sublayer, mixer=each, after=norm.replace()) for name, each in mixers.items() if each}
    return Spec(Block, **sublayers)


def decoder(
    c: Config,
    *,
    d: int,
    blocks: Sequence[Spec],
    norm: Spec | None,
    context: int,
    positions: Spec | None = None,
    scale: float | None = None,
    logit_scale: float | None = None,
    softcap: float | None = None,
) -> Spec:
    """Token table, stack and vocabulary head: tied to the table, of its own, or none for a body saved alone.

    Args:
        scale: of the embedded tokens; `logit_scale` and `softcap` of the logits.
    """
    vocab = c.size("vocab_size")
    table = Spec(Table, n=vocab, d=d)
    on_logits = {"scale": logit_scale, "softcap": softcap}
    if c.flag("tie_word_embeddings"):
        head: Spec | None = Spec(Head, proj=Spec(Tied, table=table), **on_logits)
    elif is_body(c.data):
        head = None
    else:
        head = Spec(Head, proj=Spec(nn.Linear, in_features=d, out_features=vocab, bias=False), **on_logits)
    c.finish()
    return Spec(
        Model,
        embed=Spec(Embed, tokens=table, positions=positions, scale=scale),
        stack=Spec(Stack, blocks=list(blocks), norm=norm),
        head=head,
        context=context,
    )


def encoder_decoder(
    c: Config,
    *,
    d: int,
    sides: tuple[Sequence[Spec], Sequence[Spec]],
    context: int,
    embed: Callable[[Spec], Spec] = lambda table: Spec(Embed, tokens=table),
    norm: Spec | None = None,
    tied: bool = True,
    scale: float | None = None,
    shifted: bool = False,
    beside: int = 0,
    target: int | None = None,
) -> Spec:
    """An encoder, a decoder that reads it, and one token table for both and for a tied vocabulary head.

    Args:
        d: width of the blocks.
        sides: the encoder's blocks, the decoder's blocks.
        embed: makes the embedding of one side around the table; called once for each.
        norm: after the last block of each side.
        tied: whether the head reads the table; an untied body is saved without a head.
        scale: of the logits. shifted: whether they are shifted by published constants (a body alone has none).
        beside: how many of the d numbers do not come from the token table, but are put beside its vectors.
        target: words of the decoder, where it does not share the encoder's table.
    """
    c.only("is_encoder_decoder", True)
    vocab, body = c.size("vocab_size"), is_body(c.data)
    tables = [Spec(Table, n=n, d=d - beside) for n in (vocab, target) if n is not None]
    table, vocab = tables[-1], target or vocab
    proj = Spec(Tied, table=table) if tied else Spec(nn.Linear, in_features=d, out_features=vocab, bias=False)
    shift = Spec(Shift, n=vocab) if shifted and not body else None
    c.finish()

    def side(table: Spec, blocks: Sequence[Spec], **others: Spec | None) -> Spec:
        stack = Spec(Stack, blocks=list(blocks), norm=norm and norm.replace())
        return Spec(Model, embed=embed(table), stack=stack, context=context, **others)

    reader, writer = sides
    head = Spec(Head, proj=proj, shift=shift, scale=scale) if tied or not body else None
    return side(table, writer, head=head, encoder=side(tables[0], reader))


def only_classes(c: Config, *known: str) -> None:
    """Refuse a file of another class than these: its heads would be lost."""
    found = architecture(c.data)
    if found and found not in known:
        raise CheckpointError(
            f"config.json: 'architectures' names {found!r:.60}, whose heads {c.family} here has not",
            f"Supported: {', '.join(known)}",
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

"""How texts are cut into words before BPE: the regular expressions of the published tokenizers, by name.

A GGUF file names its cut in `tokenizer.ggml.pre` (the names are llama.cpp's); tiktoken files by what they are called.
Several expressions apply one after another, each to the pieces the former left.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

from vitral.errors import CheckpointError, did_you_mean

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SIGNS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
CL100K = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_TAIL}"
QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SIGNS}|{_TAIL}"
QWEN35 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_TAIL}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_START = r"[^\r\n\p{L}\p{N}]?"
O200K = (
    rf"{_START}{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_START}{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}|{_SIGNS_SLASH}|{_TAIL}"
)
TEKKEN = rf"{_START}{_UPPER}*{_LOWER}+|{_START}{_UPPER}+{_LOWER}*|\p{{N}}|{_SIGNS_SLASH}|{_TAIL}"
_ASCII_SIGN = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥\u3040-ゟ゠-ヿ]+",
    rf"{_ASCII_SIGN}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_TAIL}",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")
_BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
_OLD = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SIGNS}|\s*[\r\n]|\s+(?!\S)|\s+"
_SEED = rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_TAIL}"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What a pre-tokenizer's name stands for.

    `ignore_merges`: a word that is a whole piece is taken without merging. `add_bos`: the default where the file is
    silent.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        return byte_level(*self.patterns)


_GPT2_CUT = Cut(patterns=(GPT2,))
_DIGITS_CUT = Cut(patterns=(r"\p{N}", GPT2))
_LLAMA3_CUT = Cut(patterns=(CL100K,), ignore_merges=True, add_bos=True)
_QWEN2_CUT = Cut(patterns=(QWEN2,))
_CUTS: dict[str, Cut] = {
    "default": Cut(patterns=(r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "deepseek-coder": Cut(patterns=_DEEPSEEK_CODER),
    "falcon": Cut(patterns=(r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    "tekken": Cut(patterns=(TEKKEN,), ignore_merges=True, add_bos=True),
    "qwen35": Cut(patterns=(QWEN35,)),
    "seed-coder": Cut(patterns=(_SEED,)),
    "viking": Cut(patterns=(_BLOOM, r"\p{N}")),
}
for _cut, _names in (
    (_GPT2_CUT, "gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum jina-es jina-de"),
    (_GPT2_CUT, "jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe"),
    (_DIGITS_CUT, "smollm starcoder refact command-r codeshell exaone minerva-7b"),
    (_LLAMA3_CUT, "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"),
    (_QWEN2_CUT, "qwen2 deepseek-r1-qwen kormo megrez stablelm2 hunyuan grok-2"),
    (Cut(patterns=(CL100K,)), "dbrx smaug-bpe glm4 chatglm-bpe"),
    (Cut(patterns=(O200K,)), "gpt-4o llama4 minimax-m2"),
    (Cut(patterns=DEEPSEEK3), "deepseek-v3 hunyuan-dense"),
    (Cut(patterns=(_OLD,)), "bailingmoe bailingmoe2 llada-moe"),
    (Cut(patterns=(_BLOOM,)), "bloom gpt3-finnish poro-chat"),
):
    _CUTS |= dict.fromkeys(_names.split(), _cut)


def cut(name: str) -> Cut:
    """What `tokenizer.ggml.pre = name` means.

    Raises:
        CheckpointError: an unknown name; guessing would give wrong ids without a sign of it.
    """
    if name not in _CUTS:
        raise CheckpointError(f"tokenizer.ggml.pre is {name!r}, which is not known here", did_you_mean(name, _CUTS))
    return _CUTS[name]


def byte_level(*patterns: str) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer that cuts by each pattern in turn and writes the pieces in the byte alphabet."""
    cuts = [pre_tokenizers.Split(Regex(for_oniguruma(pattern)), behavior="isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def for_oniguruma(pattern: str) -> str:
    r"""A pattern as tiktoken writes it, for the engine of `tokenizers`, which reads two things differently.

    `{1,3}+` is possessive in one and "once or more" in the other (being possessive only saves time here), and `$` is
    the end of the text in one and of every line in the other.
    Left as it is: `\w`, which takes in the zero-width joiners there and not here; no published pattern uses it.
    """
    pattern = re.sub(r"(?<!\\)(\{\d+(?:,\d*)?\})\+", r"\1", pattern)
    out, inside, place = [], False, 0
    while place < len(pattern):
        character = pattern[place]
        if character == "\\":
            out.append(pattern[place : place + 2])
            place += 2
            continue
        inside = (inside or character == "[") and character != "]"
        out.append(r"\z" if character == "$" and not inside else character)
        place += 1
    return "".join(out)

"""Texts that tokenizers trip over, a fixed random lot of them, and small vocabularies to try them on."""

from __future__ import annotations

import random
from functools import cache

from vitral.text.tokenizer import Tokenizer
from vitral.text.trainer import train

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "O gato perseguiu o rato. Não há força nem ação: o coração pede pão e água.",
    "def add(a, b):\n    return a + b  # 12345\n",
    "你好，世界。今日は 안녕하세요 🙂👍🏽",
    "user system assistant <b>bold</b> {'a': 1} [x] |y|",
] * 4

CURATED = [
    *("", " ", "  ", "\n", "\t", "a", " a", "a ", "  a  b  ", "Hello world", "hello hello", "x" * 300),
    *("O gato perseguiu o rato.", "Não há força à ação; coração, pão e água!", "I'm you've we'LL DON'T 's"),
    *("def f(x):\n    return x + 1\n\n\n\tif True:\r\n\t\tpass\r\n", "123 4567 1234567890 ½ ² ٣٤ Ⅷ"),
    *(
        "你好，世界。今日は 안녕하세요",
        "🙂👨‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u00e9 ﬁ ＡＢＣ ㍿",
        "a\u200bb\u00a0c\u3000d\u2028e\ufeff",
    ),
    *("\x00\x01\x7f\x80\x9f", "=====>>>>> -----_____ ........", " " * 50 + "x" + " " * 7, "\n" * 20),
    *(
        "\ufffd\ue000\U0010ffff",
        "ſ 'ſ 'S ǅ ß İ ı",
        "a\u0300\u0301\u0302b",
        "ｶﾞ ﾊﾟ が",
        "\u1100\u1161\u11a8 각",
        "Ａ\u0301",
    ),
    *("<s> </s> <unk> <|endoftext|> <|im_end|> [INST] <0x41> ▁▁ ▁a", '<a href="b">c</a>', "عَرَبِيّ हिन्दी தமிழ்"),
    *("aaa aaaa aaaaa aaaaaaaaaaaaa", "ababababab abcabcabcabc", "\u0e01\u0e33 \u0eb3"),
]
_POOLS = (
    *(
        "abcdefghijklmnopqrstuvwxyz",
        " eotain",
        "ABCDEFGH",
        "0123456789",
        " \n\t\r",
        "'’\"-_.,;:!?()[]{}<>|/\\@#$%^&*+=~`",
    ),
    *(
        "áéíóúãõçàâêôü",
        "你好世界今日は안녕하세요",
        "🙂👍🏽👨‍👩‍👧🏳️‍🌈",
        "\u0300\u0301\u0308\u200b\u200d\u00a0\u3000",
        "▁Ġ",
        "ﬁ㍿½²ＡＢ１",
    ),
)


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of mixed scripts, runs of one character, and characters from anywhere in Unicode."""
    dice = random.Random(seed)
    texts = []
    for _ in range(count):
        size, kind = dice.randrange(1, 30), dice.random()
        if kind < 0.1:
            ranges = ((0x20, 0x3000), (0x20, 0xD800), (0xE000, 0x20000))
            texts.append("".join(chr(dice.randrange(*dice.choice(ranges))) for _ in range(size)))
        elif kind < 0.25:
            texts.append(dice.choice("a =-.\n_*#") * dice.randrange(1, 60) + dice.choice(["", "x", " ", "a"]))
        else:
            pools = dice.choices(_POOLS, k=size // 3 + 1)
            texts.append("".join("".join(dice.choices(pool, k=dice.randrange(1, 6))) for pool in pools))
    return texts


TEXTS = CURATED + random_texts(400)


@cache
def small(kind: str) -> Tokenizer:
    """A tokenizer of each kind, trained here; "bpe" has ChatML's special tokens. Shared: do not change it."""
    specials = ("<|im_start|>", "<|im_end|>") if kind == "bpe" else ()
    return train(kind, CORPUS, {"bpe": 400, "wordpiece": 250, "unigram": 200}[kind], specials=specials)

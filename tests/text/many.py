"""Ten thousand texts of every kind: English, Portuguese, code, emoji, CJK and other scripts, whitespace, control codes.

They are made from short seeds, the documentation and the source of Python's own library, and chance with a fixed seed;
so two runs on one Python see the same texts.
"""

from __future__ import annotations

import inspect
import random
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from tests.text.samples import CURATED, random_texts

COUNT = 10_000
_ENGLISH = """the a this every no one old quick bright model attention reader river machine answers question because
reads writes over under quietly I'm don't we'll they've isn't U.S. e.g. 3.14 1,000 2017 O'Neil naïve café
state-of-the-art https://example.org/a?b=c#d me@example.org Chapter §4 “quoted” ‘single’ — – … $5 50% (aside)
CamelCase snake_case ALLCAPS"""
_PORTUGUESE = """o a os uma não há força ação coração pão água avó avô João São Paulo José está é também já só até às
à ao português você nós vovó pôde pôr três mês lâmpada êxito crê público útil fácil açaí caçar opção ções guarda-chuva
bem-vindo disse-lhe fá-lo-ei d'água R$ 1.234,56 25/12/2024 14h30 “aspas” «aspas» nº 1ª Ilmo. Sr. D.ª mecanismo de
atenção permite que o modelo olhe para cada palavra da frase e decida quanto ela importa"""
_SCRIPTS = (
    "你好世界今天天气很好我们去学习语言模型的注意力机制，。！？《》「」、",
    "今日はとても良い天気ですね。カタカナｶﾀｶﾅひらがな漢字混じり々ー・「」",
    "안녕하세요 오늘은 날씨가 좋습니다 한국어 문장 ㅋㅋㅋ ㅠㅠ",
    "Привет, мир! Внимание — это всё, что нужно. ёЁ",
    "مرحبا بالعالم الانتباه هو كل ما تحتاجه عَرَبِيّ ١٢٣",
    "नमस्ते दुनिया ध्यान ही सब कुछ है १२३ क्षत्रिय",
    "สวัสดีชาวโลก ความสนใจ กำ ๑๒๓",
    "שלום עולם תשומת לב גֵּרֵשׁ",
    "Γειά σου Κόσμε Ελληνικά ΐ ς",
    "வணக்கம் உலகம் தமிழ்",
    "Xin chào thế giới, tiếng Việt có dấu ường ễ",
    "Türkçe ığİI şçöü straße ẞ ﬁ ﬀ Ångström Å ＦＵＬＬ ｗｉｄｔｈ",
)
_EMOJI = """🙂 😀 👍 👍🏽 🏳️‍🌈 👨‍👩‍👧‍👦 🇧🇷 🇵🇹 🇯🇵 ❤️ ❤ ☕ ⚡️ 🧑🏿‍🚀 🤷‍♀️ 👩‍💻 #️⃣ 1️⃣
🫠 🪿 ™️ © ✅ ➡️ 🔥 💯 🥲 ¯\\_(ツ)_/¯ (╯°□°)╯ ♟︎ ♟️"""
_WHITESPACE = [
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    "\r",
    "\x0b",
    "\x0c",
    "\u00a0",
    "\u2003",
    "\u2028",
    "\u3000",
    "\x85",
]
_CONTROL = [
    *map(chr, range(32)),
    *map(chr, range(0x7F, 0xA0)),
    "\u200b",
    "\u200d",
    "\u200e",
    "\u202e",
    "\u2060",
    "\ufeff",
]
_CONTROL += ["\ufff9", "\ufffd", "\ufffe", "\U000e0041", "\ue000", "\U0010fffd", "\u0301", "\u0300\u0323", "\u20dd"]


def _prose(dice: random.Random, words: list[str]) -> str:
    text = dice.choice(["", "", " ", "\n"]) + dice.choice(words).capitalize()
    for _ in range(dice.randrange(30)):
        text += dice.choice([" "] * 12 + [", ", ". ", "\n", " - ", ": ", "; ", "'", "? ", "  "]) + dice.choice(words)
    return text + dice.choice([".", "!", "?", "", " ", "\n", "..."])


def _scripts(dice: random.Random) -> str:
    texts = dice.choices(_SCRIPTS, k=dice.randrange(1, 3))
    return dice.choice(["", " ", "a", "\n"]).join(
        text[dice.randrange(len(text)) :][: dice.randrange(1, 25)] for text in texts
    )


def _emoji(dice: random.Random) -> str:
    words = [*_EMOJI.split(), "ok", "não", "go"]
    return "".join(dice.choice(words) + dice.choice(["", " ", "!", ""]) for _ in range(dice.randrange(1, 10)))


def _whitespace(dice: random.Random) -> str:
    runs = (dice.choice(_WHITESPACE) * dice.choice([1, 1, 2, 3, 5, 17]) for _ in range(dice.randrange(1, 8)))
    return "".join(run + dice.choice(["", "", "x", "if", ".", "7", "é"]) for run in runs)


def _control(dice: random.Random) -> str:
    return "".join(dice.choice(_CONTROL) + dice.choice(["", "a", " ", "1", "ã"]) for _ in range(dice.randrange(1, 12)))


@cache
def _library() -> list[str]:
    """Lines of Python's own source, in a fixed order."""
    folder = Path(sysconfig.get_path("stdlib"))
    names = ("argparse", "ast", "datetime", "decimal", "difflib", "inspect", "mailbox", "pickle", "tarfile", "typing")
    places = [folder / f"{name}.py" for name in names] + [Path(inspect.getfile(random))]
    return [line for place in places if place.exists() for line in place.read_text("utf-8").splitlines(keepends=True)]


def _code(dice: random.Random) -> str:
    lines = _library()
    start = dice.randrange(len(lines) - 6)
    return "".join(lines[start : start + dice.randrange(1, 6)])


@cache
def many_texts() -> tuple[str, ...]:
    """The texts, all different."""
    dice = random.Random(2017)
    english, portuguese = _ENGLISH.split(), _PORTUGUESE.split()
    shares: list[tuple[int, Callable[[random.Random], str]]] = [
        (2000, lambda dice: _prose(dice, english)),
        (2000, lambda dice: _prose(dice, portuguese)),
        (2000, _code),
        (1200, _scripts),
        (700, _emoji),
        (600, _whitespace),
        (500, _control),
    ]

    def made() -> Iterator[str]:
        yield from CURATED
        for share, make in shares:
            for _ in range(share):
                yield make(dice)
        yield from random_texts(3000, seed=1)

    texts = tuple(dict.fromkeys(made()))[:COUNT]
    assert len(texts) == COUNT
    return texts

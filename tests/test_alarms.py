"""Each smoke alarm rings when there is smoke, and is silent when there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import alarms

FAMILY = "PRESETS = {}\n"
README = "# A\n\n![page](docs/page.png)\n\n## B\n\n```bash\nmake run\n```\n\n| a |\n|---|\n"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A tree with nothing wrong."""
    files = {
        "src/vitral/families/__init__.py": "",
        "src/vitral/families/llama3.py": FAMILY,
        "src/vitral/nn/ffn.py": '"""Gated FFN (Llama, arXiv:2302.13971)."""\n\n\nclass Gated:  # as in llama\n    pass\n',
        "README.md": README,
        "README.pt-BR.md": README.replace("# A", "# Um").replace("## B", "## Dois"),
        "docs/index.md": "# Pages\n\nSee `src/vitral` and ~/.cache.\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def test_all_silent_in_a_good_house(house: Path) -> None:
    assert [line for alarm in alarms.ALARMS for line in alarm(house)] == []
    assert alarms.main(house) == 0


FIELDS = "\n".join(f"    a{i}: int" for i in range(13))
SMOKE = {
    "long file": (alarms.long_files, "src/vitral/nn/ffn.py", "x = 1\n" * 401),
    "long family": (alarms.long_files, "src/vitral/families/llama3.py", FAMILY + "x = 1\n" * 120),
    "long function": (alarms.long_functions, "src/vitral/nn/ffn.py", "def f():\n" + "    x = 1\n" * 60),
    "long method": (
        alarms.long_functions,
        "tests/test_a.py",
        "class A:\n    async def f(self):\n" + "        x = 1\n" * 60,
    ),
    "wide constructor": (
        alarms.wide_constructors,
        "src/vitral/nn/ffn.py",
        f"class A:\n    def __init__(self, {', '.join(f'a{i}' for i in range(13))}): ...\n",
    ),
    "wide part": (alarms.wide_constructors, "src/vitral/nn/ffn.py", f"@dataclass\nclass A:\n{FIELDS}\n"),
    "family in code": (alarms.named_families, "src/vitral/nn/ffn.py", 'if kind == "llama": pass\n'),
    "family with a number": (alarms.named_families, "src/vitral/nn/ffn.py", "x = kind == 'Llama3'\n"),
    "distributed import": (alarms.distributed_parts, "src/vitral/nn/ffn.py", "import torch.distributed as dist\n"),
    "distributed from": (alarms.distributed_parts, "src/vitral/families/llama3.py", "from torch import distributed\n"),
    "distributed use": (alarms.distributed_parts, "src/vitral/nn/ffn.py", "rank = torch.distributed.get_rank()\n"),
    "pickle": (alarms.unsafe_loading, "src/vitral/weights/a.py", "import pickle\n"),
    "torch.load": (alarms.unsafe_loading, "src/vitral/weights/a.py", "x = torch.load(path)\n"),
    "missing readme": (alarms.unequal_readmes, "README.pt-BR.md", None),
    "extra heading": (alarms.unequal_readmes, "README.md", README + "\n## C\n"),
    "other command": (alarms.unequal_readmes, "README.md", README.replace("make run", "make walk")),
    "other image": (alarms.unequal_readmes, "README.pt-BR.md", README.replace("page.png", "pagina.png")),
    "shorter table": (alarms.unequal_readmes, "README.pt-BR.md", README.replace("| a |\n", "")),
    "machine path": (alarms.machine_paths, "docs/index.md", "lies in /home/ana/models\n"),
    "registry host": (alarms.machine_paths, "README.md", "see https://" + "pypi" + ".org/project/x\n"),
}


@pytest.mark.parametrize("name", SMOKE)
def test_rings(house: Path, name: str) -> None:
    alarm, file, text = SMOKE[name]
    path = house / file
    if text is None:
        path.unlink()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    lines: Iterator[str] = alarm(house)
    assert [line for line in lines if Path(file).name in line], f"{alarm.__name__} is silent"
    assert alarms.main(house) == 1


def test_every_alarm_is_tried() -> None:
    assert {alarm for alarm, _, _ in SMOKE.values()} == set(alarms.ALARMS)


def test_the_ceilings_themselves_are_allowed(house: Path) -> None:
    (house / "src/vitral/nn/ffn.py").write_text("x = 1\n" * 400)
    (house / "src/vitral/nn/norm.py").write_text("def f():\n" + "    x = 1\n" * 59)
    assert alarms.main(house) == 0

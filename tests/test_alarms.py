"""Each smoke alarm rings when there is smoke, and is silent when there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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
        "src/vitral/nn/ffn.py": '"""Gated FFN (Llama, arXiv:2302.13971)."""\n\n\nclass Gated:  # llama\n    pass\n',
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
    "long shared file": (alarms.long_files, "src/vitral/families/shared.py", "x = 1\n" * 121),
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


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("nn/ffn.py", "import vitral.weights.load", "the rooms lie in layers BROKEN"),
        ("generate/sample.py", "import vitral.inspect.record", "the rooms lie in layers BROKEN"),
        ("nn/ffn.py", "import os", "the model knows no environment, no tokenizer and no launcher BROKEN"),
        ("text/chat.py", "import torch", "text, image and errors do without torch BROKEN"),
        ("weights/save.py", "import transformers", "the references stay in the tests BROKEN"),
        ("cli/show.py", "import fastapi", "only serve knows the web BROKEN"),
    ],
)
def test_the_layers_ring(tmp_path: Path, file: str, line: str, contract: str) -> None:
    """import-linter with our contracts, on a copy of the source with one import too many."""
    pytest.importorskip("importlinter", reason="needs import-linter (the dev extra)")
    root = Path(__file__).parent.parent
    shutil.copytree(root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "page"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    wrong = tmp_path / "src/vitral" / file
    wrong.write_text(wrong.read_text("utf-8") + f"\n{line}\n", "utf-8")
    code = "import sys; from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and contract in done.stdout, done.stdout + done.stderr

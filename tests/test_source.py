"""What lies beside the weights: pooling, generation settings, licence; and names that lead nowhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitral
from tests.artefacts import artefact
from vitral.errors import VitralError

TEXTS = ["a cat", "Um gato dorme ao sol."]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the MiniLM folder that a test may spoil."""
    return Path(shutil.copytree(artefact("minilm"), tmp_path / "copy"))


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")


def pool_by(folder: Path, mode: str, place: str) -> None:
    """Make the folder pool by `mode`, as its module `place` says."""
    shutil.rmtree(folder / "1_Pooling")
    write(folder / place / "config.json", {f"pooling_mode_{mode}": True, "pooling_mode_max_tokens": False})
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    write(folder / "modules.json", [{**m, "path": place} if m["type"].endswith("Pooling") else m for m in modules])


def test_pooling_is_where_the_modules_say_and_survives_every_format(folder: Path, tmp_path: Path) -> None:
    mean = vitral.load(folder).embed(TEXTS)
    pool_by(folder, "cls_token", "2_Pool")
    lm = vitral.load(folder)
    ours = lm.embed(TEXTS)
    assert lm.pooling.mode == "cls" and np.abs(ours - mean).max() > 0.01
    np.testing.assert_allclose(
        ours[0], (first := lm.hidden(lm.tokenizer.encode(TEXTS[0]))[0, 0]) / first.norm(), atol=1e-6
    )
    saved = vitral.load(lm.save(tmp_path / "saved"))
    packed = vitral.load(lm.save_gguf(tmp_path / "packed.gguf"))
    for again in (saved, packed):
        assert again.pooling == lm.pooling and np.abs(again.embed(TEXTS) - ours).max() <= 1e-6


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("modules.json", "{", "modules.json is a broken JSON file"),
        ("modules.json", {"type": "Pooling"}, "modules.json"),
        ("modules.json", ["Pooling"], "modules.json is not a list of modules"),
        ("modules.json", [{"type": "x.Dense", "path": "2_Dense"}], "names no pooling module"),
        ("1_Pooling/config.json", {}, "asks for []"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "asks for"),
        ("sentence_bert_config.json", {"max_seq_length": "256"}, "max_seq_length is '256'"),
    ],
)
def test_a_folder_that_does_not_say_how_to_pool_is_refused(folder: Path, file: str, content: Any, said: str) -> None:
    write(folder / file, content)
    with pytest.raises(VitralError) as caught:
        vitral.load(folder)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_publishers_settings_are_the_defaults(folder: Path) -> None:
    assert vitral.load(folder).defaults == vitral.Sampling()
    write(folder / "generation_config.json", {"do_sample": True, "top_p": 0.9, "top_k": None, "temperature": 0.0})
    assert vitral.load(folder).defaults == vitral.Sampling(temperature=0.0, top_p=0.9)
    write(folder / "generation_config.json", {"do_sample": True})
    assert vitral.load(folder).defaults.temperature == 1.0
    write(folder / "generation_config.json", {"do_sample": False, "temperature": 0.7, "repetition_penalty": 1.1})
    assert vitral.load(folder).defaults == vitral.Sampling(repetition_penalty=1.1)
    for content, said in (({"repetition_penalty": -1}, "repetition_penalty is -1"), ("[]", "broken"), ("{,", "broken")):
        write(folder / "generation_config.json", content)
        with pytest.raises(VitralError, match=r"^.*generation_config\.json.*") as caught:
            vitral.load(folder)
        assert said in str(caught.value)


def test_the_licence_is_what_the_card_says(folder: Path) -> None:
    (folder / "README.md").unlink(missing_ok=True)
    assert vitral.load(folder).licence == "unknown"
    write(folder / "README.md", "---\nlicense: apache-2.0\n---\n# A model\n")
    assert vitral.load(folder).licence == "apache-2.0"


def test_a_copy_keeps_the_licence(tmp_path: Path) -> None:
    artefact("minilm")
    lm = vitral.load("all-minilm-l6-v2")
    assert lm.licence == "Apache-2.0"
    assert vitral.load(lm.save_gguf(tmp_path / "copy.gguf")).licence == "Apache-2.0"
    saved = vitral.load(lm.save(tmp_path / "saved"))
    assert saved.licence.lower() == "apache-2.0"
    assert vitral.load(saved.save(tmp_path / "again")).licence == saved.licence


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere.gguf", "~/nowhere-at-all"])
def test_a_path_that_leads_nowhere_is_no_catalogue_name(name: str) -> None:
    with pytest.raises(VitralError, match="there is no file or folder"):
        vitral.load(name)

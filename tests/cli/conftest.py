"""Run a command line in this process; a tiny model, made here, for it to run on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vitral import cli
from vitral.families import of_config
from vitral.weights.save import save_folder

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one error line; anything else on stderr but signs of progress fails the test that asks."""
        lines = [line for line in self.err.splitlines() if not line.endswith("…")]
        assert len(lines) == 1 and lines[0].startswith("error: "), self.err
        return lines[0]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def call(*args: object) -> Outcome:
        capsys.readouterr()
        code = cli.run([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verb may touch this person's models, nor the network."""
    monkeypatch.setenv("VITRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VITRAL_OFFLINE", "1")


def save_tiny(folder: Path, template: str | None) -> Path:
    """A three-layer model of random numbers with a byte-level tokenizer, as a Hugging Face folder."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    core.train_from_iterator(["o gato perseguiu o rato e o rato fugiu do gato"] * 4, trainer)
    settings = {"bos_token": "<s>", "eos_token": "</s>", **({"chat_template": template} if template else {})}

    def tokenizer(place: Path) -> None:
        core.save(str(place / "tokenizer.json"))
        (place / "tokenizer_config.json").write_text(json.dumps(settings))

    config = {**CONFIG, "vocab_size": core.get_vocab_size()}
    family = of_config(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = family.spec(config).build()
    return save_folder(folder, model=model, names=family.NAMES, config=config, dtype="float32", also=tokenizer)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model that says nonsense."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", TEMPLATE)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without a chat template."""
    return save_tiny(tmp_path_factory.mktemp("models") / "base", None)

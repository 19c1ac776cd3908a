"""A T5 (arXiv:1910.10683) exported as `encoder.onnx` + `decoder.onnx`, seen as a Hugging Face checkpoint.

Such a folder has no config.json; the graphs say all of it. Shapes give the sizes, the layers' numbers the depth, and
the constants of the arithmetic what no shape shows: the epsilon of the norms, the longest distance that the relative
positions tell apart, the activation. What the two files do not say in this way is an error, never a guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from vitral.errors import CheckpointError
from vitral.weights.files import file_inside
from vitral.weights.onnx import Node, OnnxFile
from vitral.weights.onnx_weights import Weight, read_weights

FILES = ("encoder.onnx", "decoder.onnx")
_BODY = re.compile(r"(?:.*\.)?((?:block\.\d+\.layer\.\d\..+|final_layer_norm)\.weight)")
_TABLE = re.compile(r"(?:.*\.)?(?:shared|embed_tokens)\.weight")
_HEAD = re.compile(r"(?:.*\.)?lm_head\.weight")
_BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_ACTIVATIONS = {"Tanh": "gelu_new", "Erf": "gelu", "Relu": "relu"}
_PROJECTIONS = {("gelu_new", True): "gated-gelu", ("relu", True): "gated-relu", ("relu", False): "relu"}
"""(activation, gated) → `feed_forward_proj`."""


class OnnxT5:
    """The two graphs of a folder as a `TensorSource` under Hugging Face's names, with the `config` they imply.

    Raises:
        CheckpointError: a file that is damaged, or no T5.
    """

    metadata: Mapping[str, Any]

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        graphs = [OnnxFile(file_inside(self.path, name)) for name in FILES]
        self._weights: dict[str, Weight] = {}
        for side, graph in zip(("encoder", "decoder"), graphs, strict=True):
            for name, weight in read_weights(graph).items():
                self._add(self._hf_name(side, name), weight)
        self.config = self._config(*graphs)
        self.metadata = {}

    def names(self) -> list[str]:
        return list(self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weight(name).shape

    def dtype(self, name: str) -> str:
        """`F32`, whatever the file holds."""
        self._weight(name)
        return "F32"

    def read(self, name: str) -> torch.Tensor:
        """The tensor, dequantised to float32."""
        return torch.from_numpy(self._weight(name).read())

    def _weight(self, name: str) -> Weight:
        try:
            return self._weights[name]
        except KeyError:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}") from None

    def _hf_name(self, side: str, name: str) -> str:
        if found := _BODY.fullmatch(name):
            return f"{side}.{found[1]}"
        if _TABLE.fullmatch(name):
            return "shared.weight"
        if side == "decoder" and _HEAD.fullmatch(name):
            return "lm_head.weight"
        self._fail(f"{side}.onnx holds {name!r:.80}, which a T5 has not")

    def _add(self, name: str, weight: Weight) -> None:
        """Each name once; the table of tokens stands in both files and must be the same."""
        known = self._weights.setdefault(name, weight)
        if known is weight:
            return
        if name != "shared.weight":
            self._fail(f"it holds {name!r} twice")
        if known.shape != weight.shape or not np.array_equal(known.read(), weight.read()):
            self._fail("encoder and decoder embed the same tokens differently")

    # ── what the graphs say about the model ─────────────────────────────────────────────────────────────────

    def _config(self, encoder: OnnxFile, decoder: OnnxFile) -> dict[str, Any]:
        """`config.json`, in the words of Hugging Face's T5."""
        vocab, d_model = self._table("shared.weight")
        buckets, heads = self._table(f"encoder.{_BIAS}")
        inner, _ = self._table("encoder.block.0.layer.0.SelfAttention.q.weight")
        gated = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight" in self._weights
        d_ff, _ = self._table(f"encoder.block.0.layer.1.DenseReluDense.{'wi_0' if gated else 'wi'}.weight")
        if not heads or inner % heads or buckets % 4:
            self._fail(f"{inner} channels are not {heads} heads of one size, or {buckets} buckets not halves of halves")
        self._check_head(decoder)
        activation = self._both(encoder, decoder, _activation, "activation")
        if (activation, gated) not in _PROJECTIONS:
            self._fail(f"its feed-forward layers use {activation}, {'gated' if gated else 'not gated'}")
        return {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "vocab_size": vocab,
            "d_model": d_model,
            "d_kv": inner // heads,
            "d_ff": d_ff,
            "num_heads": heads,
            "num_layers": self._depth("encoder"),
            "num_decoder_layers": self._depth("decoder"),
            "relative_attention_num_buckets": buckets,
            "relative_attention_max_distance": self._distance(encoder, decoder, buckets),
            "feed_forward_proj": _PROJECTIONS[activation, gated],
            "dense_act_fn": activation,
            "is_gated_act": gated,
            "layer_norm_epsilon": self._both(encoder, decoder, _epsilon, "norm's epsilon"),
            "dropout_rate": 0.0,
            "initializer_factor": 1.0,
            "is_encoder_decoder": True,
            "tie_word_embeddings": False,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
        }

    def _table(self, name: str) -> tuple[int, int]:
        """The shape of a matrix that every T5 has."""
        if name not in self._weights or len(self._weights[name].shape) != 2:
            self._fail(f"it holds no matrix {name}")
        rows, columns = self._weights[name].shape
        return rows, columns

    def _depth(self, side: str) -> int:
        """Layers of a side; that none is missing in between is for the name map to find."""
        numbers = [int(name.split(".")[2]) for name in self._weights if name.startswith(f"{side}.block.")]
        return 1 + max(numbers, default=-1)

    def _distance(self, encoder: OnnxFile, decoder: OnnxFile, buckets: int) -> int:
        """From the divisor log(longest / exact): the encoder has half its buckets for each direction."""
        found = set()
        for graph, exact in ((encoder, buckets // 4), (decoder, buckets // 2)):
            spans = {value for node in graph.nodes if node.op == "Log" for value in _divisors(graph, node)}
            if len(spans) != 1 or not 0 < (span := spans.pop()) < 20:
                self._fail(f"{graph.path.name} does not bucket distances by their logarithm as a T5 does")
            found.add(round(exact * math.exp(span)))
        if len(found) != 1:
            self._fail(f"its two files end the relative positions at different distances, {sorted(found)}")
        return found.pop()

    def _check_head(self, decoder: OnnxFile) -> None:
        """A head of its own reads the last norm's output as it is; a tied one would read it scaled down."""
        if "lm_head.weight" not in self._weights:
            self._fail("its head is the embedding, which is not supported", "Export a model with a head of its own")
        inside = (node for node in decoder.nodes if "lm_head" in node.name.split("/") and "MatMul" in node.op)
        maker = next((decoder.producer.get(node.inputs[0]) for node in inside), None)
        if maker is not None and maker.op == "DynamicQuantizeLinear":
            maker = decoder.producer.get(maker.inputs[0])
        if maker is None or "final_layer_norm" not in maker.name.split("/"):
            self._fail("its head does not read the last norm's output")

    def _both(self, encoder: OnnxFile, decoder: OnnxFile, ask: Any, what: str) -> Any:
        found = {value for graph in (encoder, decoder) for value in ask(graph)}
        if len(found) != 1:
            self._fail(f"its {what} is not one for the whole model: {sorted(found)}")
        return found.pop()

    def _fail(self, what: str, remedy: str = "Export it again, or give a folder with config.json") -> NoReturn:
        raise CheckpointError(f"{self.path} is no T5 to be read here: {what}", remedy)


def _scalar(graph: OnnxFile, values: tuple[str, ...]) -> Iterator[float]:
    """The numbers among some values."""
    for value in values:
        constant = graph.constants.get(value)
        if constant is not None and constant.shape in ((), (1,)):
            yield float(constant.array().reshape(()))


def _divisors(graph: OnnxFile, node: Node) -> Iterator[float]:
    """What a node's result is divided by next."""
    for reader in graph.consumers.get(node.outputs[0], []):
        if reader.op == "Div":
            yield from _scalar(graph, reader.inputs)


def _epsilon(graph: OnnxFile) -> set[float]:
    """What is added before each root, to the six digits that float32 keeps."""
    makers = [graph.producer.get(node.inputs[0]) for node in graph.nodes if node.op == "Sqrt"]
    return {float(f"{e:.6g}") for n in makers if n is not None and n.op == "Add" for e in _scalar(graph, n.inputs)}


def _activation(graph: OnnxFile) -> set[str]:
    """The functions that the feed-forward layers apply."""
    inside = (node for node in graph.nodes if "DenseReluDense" in node.name.split("/"))
    return {_ACTIVATIONS[node.op] for node in inside if node.op in _ACTIVATIONS}

"""Reading a published `config.json` so that nothing in it is overlooked.

Every key is either read by the family, known to have no bearing on the numbers, or an error: a key that nobody reads
may be the one that changes the mathematics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from vitral.errors import CheckpointError, did_you_mean
from vitral.nn import (
    GELU,
    ByWavelength,
    DynamicNTK,
    GELUTanh,
    Linear,
    QuickGELU,
    ReLU,
    Rotary,
    Scaling,
    SiLU,
    Spec,
    Yarn,
)

REQUIRED: Any = object()
LONGEST, DEEPEST = 2**31 - 1, 2**12
"""More positions and more layers than any file can mean."""

# Keys of published files that say nothing about the forward pass of a model that is not being trained.
BYSTANDERS = frozenset(
    """
    _name_or_path architectures attn_implementation bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id
    mask_token_id unk_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id torch_dtype dtype
    transformers_version use_cache initializer_range pretraining_tp attention_dropout hidden_dropout_prob
    attention_probs_dropout_prob classifier_dropout resid_pdrop embd_pdrop attn_pdrop summary_type summary_use_proj
    summary_activation summary_proj_to_labels summary_first_dropout output_attentions output_hidden_states
    return_dict torchscript use_bfloat16 id2label label2id num_labels problem_type finetuning_task
    task_specific_params tokenizer_class prefix gradient_checkpointing directionality pooler_fc_size
    pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type is_llama_config max_length
    min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens chunk_size_feed_forward tf_legacy_loss
    n_ctx gradient_checkpointing_use_reentrant transformers.js_config unsloth_version unsloth_fixed use_return_dict
    name_or_path model_name reorder_and_upcast_attn keys_to_ignore_at_inference model_max_length output_past
    max_sequence_length _num_labels _commit_hash _flash_attn_2_enabled _attn_implementation_autoset logits_to_keep
    cache_implementation decoder_layerdrop encoder_layerdrop init_std dropout dropout_rate activation_dropout
    classif_dropout initializer_factor force_bos_token_to_be_generated predict_special_tokens xla_device
    replacing_rate save_step student_encoder_layers student_decoder_layers
    """.split()  # noqa: SIM905
)
# Keys that full dumps carry and no family here reads: with any other value they would change the forward pass.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "cross_attention_hidden_size": (None,),
    "per_layer_config": (None,),
    "pruned_heads": ({},),
    "sliding_window": (None,),
    "n_special": (0,),
    "do_blenderbot_90_layernorm": (False,),
    "_attn_implementation": ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"),
}
_QUANTISED = (
    "says that the weights are quantised, and quantised safetensors checkpoints are not read",
    "Give the dequantised weights, or a GGUF file",
)
# key → (cause, remedy), for keys whose name alone says too little.
REFUSED = {
    "auto_map": (
        "wants code of its own folder, and code from a model folder is never run",
        "Remove the key if the weights are of the type that model_type says",
    ),
    "quantization": _QUANTISED,
    "quantization_config": _QUANTISED,
}


def architecture(config: Mapping[str, Any]) -> str:
    """The class that a config.json names first; "" when it names none."""
    named = config.get("architectures") or [""]
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise CheckpointError(f"config.json: 'architectures' is {named!r:.60}", "It must be a list of class names")
    return named[0]


def is_body(config: Mapping[str, Any]) -> bool:
    """Whether it describes a body saved without its head: LlamaModel, but not GPT2LMHeadModel or MarianMTModel."""
    named = architecture(config)
    return named.endswith("Model") and not named.endswith(("HeadModel", "MTModel"))


ACTIVATIONS = {
    "gelu": GELU,
    "gelu_new": GELUTanh,
    "gelu_pytorch_tanh": GELUTanh,
    "gelu_fast": GELUTanh,
    "quick_gelu": QuickGELU,
    "silu": SiLU,
    "swish": SiLU,
    "relu": ReLU,
}


class Config:
    """A config.json being read. `get` marks a key as read; `finish` raises for those that nobody read.

    Args:
        data: the file's content.
        family: its name, for messages.
        defaults: what a key means that is absent or null; wins over the default of a single call.
    """

    def __init__(self, data: Mapping[str, Any], family: str, defaults: Mapping[str, Any] | None = None) -> None:
        self.data = data
        self.family = family
        self.defaults = defaults or {}
        self.read: set[str] = {"model_type"}

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """The value of a key; null counts as absent."""
        self.read.add(key)
        value = self.data.get(key)
        if value is None:
            default = self.defaults.get(key, default)
            if default is REQUIRED:
                raise CheckpointError(f"config.json of {self.family} lacks {key!r}", "The file is not complete")
            return default
        return value

    def size(self, key: str, default: Any = REQUIRED, *, least: int = 1, most: int = 2**20) -> int:
        """A whole number from `least` to `most`: a file must not make us build what no model is."""
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise CheckpointError(
                f"config.json: {key!r} is {value!r:.40}", f"It must be a whole number from {least} to {most}"
            )
        return value

    def number(self, key: str, default: Any = REQUIRED) -> float:
        """A positive number; numbers beyond 1e30 have no meaning in float32."""
        value = self.get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= 1e30:
            raise CheckpointError(f"config.json: {key!r} is {value!r:.40}", "It must be a positive number")
        return float(value)

    def table(self, key: str) -> dict[str, Any]:
        """An object within the object; empty when absent."""
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise CheckpointError(f"config.json: {key!r} is {value!r:.40}", "It must be an object, or null")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"config.json: {key!r} is {value!r:.40}", "It must be true or false")
        return value

    def only(self, key: str, *allowed: Any) -> None:
        """A key that may be there with one of these values and nothing else, because we compute nothing else."""
        value = self.get(key, allowed[0])
        if value not in allowed:
            raise CheckpointError(
                f"config.json: {key!r} is {value!r:.60}, which {self.family} here does not compute",
                f"Supported: {', '.join(repr(a) for a in allowed)}",
            )

    def code(self, known: Mapping[str, str]) -> None:
        """Let an `auto_map` stand that names published code which computes what is computed here. It is never run.

        Any other is refused, also beside a model_type that we read: such folders exist whose code looks both ways, or
        has other positions, under the type of a family that does neither.

        Args:
            known: what the published `auto_map` says; a copy may put the name of its repository before it.
        """
        said = self.get("auto_map", {})
        if not isinstance(said, dict) or any(known.get(key) != str(of).rpartition("--")[2] for key, of in said.items()):
            cause, remedy = REFUSED["auto_map"]
            raise CheckpointError(f"config.json: 'auto_map' {cause}", remedy)

    def activation(self, key: str, aliases: Mapping[str, str] | None = None) -> Spec:
        """The activation that a key names; `aliases` are further names: alias → the usual one."""
        name, known = self.get(key), {name: name for name in ACTIVATIONS} | dict(aliases or {})
        if not isinstance(name, str) or name not in known:
            raise CheckpointError(f"config.json: {key!r} is {name!r:.40}", did_you_mean(str(name), known))
        return Spec(ACTIVATIONS[known[name]])

    def finish(self) -> None:
        """Raise for every key that was not read, is not a bystander and does not have its neutral value."""
        for key in self._unread(BYSTANDERS):
            if key in NEUTRAL:
                self.only(key, *NEUTRAL[key])
            elif key in REFUSED and self.data[key] is not None:
                cause, remedy = REFUSED[key]
                raise CheckpointError(f"config.json: {key!r} {cause}", remedy)
        self.close(BYSTANDERS | NEUTRAL.keys() | REFUSED.keys())

    def close(self, bystanders: Collection[str] = ()) -> None:
        """Raise for every key that was neither read nor is a bystander."""
        unknown = self._unread(bystanders)
        if unknown:
            raise CheckpointError(
                f"config.json of {self.family} has {'a key' if len(unknown) == 1 else 'keys'} we do not know: "
                + ", ".join(repr(key) for key in unknown[:8]),
                "It may change what the model computes. " + did_you_mean(unknown[0], self.read),
            )

    def _unread(self, bystanders: Collection[str]) -> list[str]:
        left = set(self.data) - self.read - set(bystanders)
        return sorted(key for key in left if not key.startswith("_vitral"))

    def rotary(self, head_dim: int, context: int, theta: float = 10000.0) -> tuple[Spec, int]:
        """The rotary part of `rope_parameters`, or of the older `rope_theta` and `rope_scaling`; and the context.

        The context is what the file says, except under dynamic scaling, which does nothing within it and serves up to
        `factor` times as many tokens.
        """
        old, new = self.table("rope_scaling"), self.table("rope_parameters")
        if old and new and old != new:
            raise CheckpointError("config.json has both 'rope_scaling' and 'rope_parameters'", "Keep one of them")
        rope = Config(new or old, f"{self.family}, under {'rope_parameters' if new else 'rope_scaling'},")
        theta = rope.number("rope_theta", self.number("rope_theta", theta))
        for config in (self, rope):
            # transformers reads the key and turns whole heads all the same: which of the two was trained, none can say
            config.only("partial_rotary_factor", 1.0)
        if head_dim % 2:
            raise CheckpointError(f"config.json: rotary over {head_dim} numbers a head", "It must be even")
        if theta <= 1:
            raise CheckpointError(f"config.json: 'rope_theta' is {theta:g}", "It must be greater than 1")
        made = scaling(rope, context, head_dim)
        if isinstance(made, DynamicNTK):
            context = max(context, int(min(made.factor * context, LONGEST)))
        return Spec(Rotary, dim=head_dim, theta=theta, scaling=made), context


def scaling(rope: Config, context: int, dim: int) -> Scaling | None:
    """The scaling that a rope_type (or, in older files, a type) names; every key must be one that the type uses.

    Where `original_max_position_embeddings` is absent it is the context, as in transformers.
    """
    older = rope.get("type", None)
    kind = rope.get("rope_type", older or "default")
    if older is not None and older != kind:
        raise CheckpointError(f"config.json: type {older!r:.40} and rope_type {kind!r:.40} differ", "Keep one of them")
    original = rope.size("original_max_position_embeddings", context, most=LONGEST)
    made: Scaling | None
    if kind == "default":
        rope.get("factor", None)
        made = None
    elif kind == "linear":
        made = Linear(factor=rope.number("factor"))
    elif kind == "dynamic":
        if dim <= 2:
            raise CheckpointError(f"config.json: rope_type 'dynamic' needs more than {dim} numbers a head")
        made = DynamicNTK(factor=rope.number("factor"), original=context)
    elif kind == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        made = ByWavelength(factor=rope.number("factor"), low=low, high=high, original=original)
    elif kind == "yarn":
        optional = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim")
        given: dict[str, Any] = {key: rope.number(key) for key in optional if rope.get(key, None) is not None}
        factor = rope.number("factor", context / original)
        made = Yarn(factor=factor, original=original, truncate=rope.flag("truncate", True), **given)
    else:
        known = ("default", "linear", "dynamic", "llama3", "yarn")
        raise CheckpointError(f"config.json: rope_type is {kind!r:.40}", did_you_mean(str(kind), known))
    rope.close()
    return made

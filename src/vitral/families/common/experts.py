"""Reading mixtures of experts with softmax routers, and the names of their tensors in files."""

from __future__ import annotations

from collections.abc import Callable

from vitral.errors import CheckpointError
from vitral.families.common.config import Config
from vitral.families.common.rules import Rule, Stacked
from vitral.nn import GatedExperts, MoE, Renormalised, Router, Spec


def training_only(c: Config) -> None:
    """Mark as read what such configs say about training alone: losses of the router, noise on what it sees."""
    for key in ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"):
        c.get(key, None)


def mixture(c: Config, d: int, act: Spec, *, n: int, d_ff: int, renormalised: bool) -> Spec:
    """n gated experts of width d_ff, of which a token meets `num_experts_per_tok`."""
    top_k = c.size("num_experts_per_tok")
    if top_k > n:
        raise CheckpointError(f"config.json: 'num_experts_per_tok' is {top_k}", f"There are {n} experts")
    router = Spec(Renormalised if renormalised else Router, d_model=d, n_experts=n, top_k=top_k)
    return Spec(MoE, router=router, experts=Spec(GatedExperts, n=n, d_model=d, d_ff=d_ff, act=act.replace()))


def number(c: Config) -> int:
    """How many experts: `num_experts`, which newer programs write as `num_local_experts`."""
    n = c.size("num_experts" if c.get("num_local_experts", None) is None else "num_local_experts")
    c.only("num_experts", n)
    return n


def sparse_layers(c: Config, layers: int) -> Callable[[int], bool]:
    """Which layers have experts: every `decoder_sparse_step`-th, counted from 1, except those in `mlp_only_layers`."""
    step, dense = c.size("decoder_sparse_step", 1), c.get("mlp_only_layers", [])
    if not isinstance(dense, list) or not all(type(each) is int and 0 <= each < layers for each in dense):
        raise CheckpointError(
            f"config.json: 'mlp_only_layers' is {dense!r:.60}", f"It must be a list of layers from 0 to {layers - 1}"
        )
    return lambda depth: depth not in dense and (depth + 1) % step == 0


def expert_names(
    file: str, mixer: str = "stack.blocks.{}.ffn.mixer", *, gate: str = "gate_proj", up: str = "up_proj", down: str
) -> dict[str, Rule]:
    """The rules of a router and its experts, which lie under `file` in the file and in the model under `mixer`."""
    found: dict[str, Rule] = {f"{file}.gate.weight": f"{mixer}.router.proj.weight"}
    for ours, theirs in (("gate", gate), ("up", up), ("down", down)):
        found[f"{file}.experts.{{}}.{theirs}.weight"] = Stacked(f"{mixer}.experts.{ours}")
    return found

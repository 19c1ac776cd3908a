"""Random initialisation, so that a model can be trained from nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitral.nn.block import Sublayer


def initialise(model: nn.Module, *, std: float = 0.02, seed: int = 0) -> None:
    """Normal(0, std) for matrices, tables and lone vectors, zero for biases; norms and gates keep their neutral start.

    The matrices that write to the residual stream (`writes`; of a mixture, one of each expert) are scaled by
    1/sqrt(number of sublayers), so that the stream's variance does not grow with depth (Radford et al. 2019 §2.3).
    """
    generator = torch.Generator().manual_seed(seed)
    sublayers = sum(isinstance(module, Sublayer) for module in model.modules())
    last = {id(weight) for module in model.modules() if (weight := _written(module)) is not None}
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim > 1 or name == "vector":
                    scale = std / max(sublayers, 1) ** 0.5 if id(parameter) in last else std
                    scale = getattr(module, "std", None) or scale  # a table may have its own
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
                elif name == "bias" and parameter.ndim == 1:
                    parameter.zero_()


def _written(module: nn.Module) -> Tensor | None:
    """The matrix by which a part writes to the residual stream; None for a part that does not."""
    name = getattr(module, "writes", "")
    found: Any = getattr(module, name) if name else None
    return getattr(found, "weight", found)

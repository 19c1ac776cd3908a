"""Random initialisation, so that a model can be trained from nothing."""

from __future__ import annotations

import torch
from torch import nn

from vitral.nn.block import Sublayer
from vitral.nn.embed import Table


def initialise(model: nn.Module, *, std: float = 0.02, seed: int = 0) -> None:
    """Normal(0, std) for every matrix and table, zero for biases; norms keep their neutral start.

    The last matrix of each sublayer is scaled by 1/sqrt(number of sublayers), so that the residual stream's variance
    does not grow with depth (Radford et al. 2019 §2.3).
    """
    generator = torch.Generator().manual_seed(seed)
    sublayers = [m for m in model.modules() if isinstance(m, Sublayer)]
    last = {id(linears[-1]) for s in sublayers if (linears := [m for m in s.modules() if isinstance(m, nn.Linear)])}
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, Table)):
                scale = std / max(len(sublayers), 1) ** 0.5 if id(module) in last else std
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * scale)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()

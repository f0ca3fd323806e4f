"""What counts of operations need to know of a network: its plain cost and its self-attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..compression import Compression, NetworkCall, RunLog
from ..flops import LayerFlops
from ..grid import TokenGrid
from ..placement import Site
from ..schedules import Moment


@dataclass(frozen=True)
class AttentionLayer:
    """A self-attention layer whose tokens lie on `grid` and have `width` channels."""

    site: Site
    grid: TokenGrid
    width: int


@dataclass(frozen=True)
class Outline:
    """One plain call of a network for one sample of one size.

    `flops` are those of the whole call, `layers` its self-attention in order of execution.
    """

    flops: int
    layers: tuple[AttentionLayer, ...]
    layer_flops: LayerFlops

    def log(self, compression: Compression, progress: float = 0.5) -> RunLog:
        """What a call at this progress would log: every layer plans on a tensor without data."""
        call = NetworkCall(compression, Moment(progress), RunLog(), self.layer_flops)
        for layer in self.layers:
            metric = torch.empty(1, layer.grid.tokens, layer.width, device="meta")
            call.plan(layer.site, metric, layer.grid)
        return call.log

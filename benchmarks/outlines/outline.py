"""What counts of operations need to know of a network: its plain cost and its self-attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bigain_core.compression.network_call import NetworkCall
from bigain_core.compression.rules import Compression
from bigain_core.compression.run_log import RunLog
from bigain_core.measure.flops import LayerFlops
from bigain_core.placement import LayerId
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid


@dataclass(frozen=True)
class AttentionLayer:
    """A self-attention layer whose tokens lie on `grid` and have `width` channels."""

    layer_id: LayerId
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
        call = NetworkCall(compression, DenoisingProgress(progress), RunLog(), self.layer_flops)
        for layer in self.layers:
            metric = torch.empty(1, layer.grid.tokens, layer.width, device="meta")
            call.plan(layer.layer_id, metric, layer.grid)
        return call.log

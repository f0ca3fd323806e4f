"""What counts of operations need to know of a network: its plain cost and its self-attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bigain_core.compression.network_call import NetworkCall
from bigain_core.compression.rules import Compression
from bigain_core.compression.run_log import RunLog
from bigain_core.measure.flops import LayerFlops, attention_flops
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
        point = DenoisingProgress(progress)
        call = NetworkCall(compression, lambda: point, RunLog(), self.layer_flops)
        for layer in self.layers:
            metric = torch.empty(1, layer.grid.tokens, layer.width, device="meta")
            call.visit(layer.layer_id, metric, layer.grid)
        return call.log


def linear_flops(inputs: int, outputs: int, rows: int = 1) -> int:
    return 2 * rows * inputs * outputs


def convolution_flops(inputs: int, outputs: int, kernel: int, pixels: int) -> int:
    """A kernel x kernel convolution of channels with `pixels` positions in its output."""
    return 2 * kernel**2 * inputs * outputs * pixels


def cross_attention_flops(width: int, tokens: int, context: int, context_width: int) -> int:
    """`tokens` queries attend to `context` keys projected from another width."""
    projections = 4 * tokens * width**2 + 4 * context * context_width * width
    return attention_flops(width, tokens, context) + projections

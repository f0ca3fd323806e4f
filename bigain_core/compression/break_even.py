"""Whether compressing a layer takes less time than it saves, from measurements.

The time for deciding, merging and restoring hardly depends on the size of a layer; the operations
saved grow with its tokens, its width and the strength of the method. So each method has one
threshold per kind of device: the operations that a layer must save to break even for one image, as
results must not depend on the batch. Those of CPUs were measured by `python -m
benchmarks.break_even`. A GPU waits for the CPU that starts its kernels: those of the H200 are read
off calls of DiT-XL/2 at three sizes, where plain and compressed ones take equally long
(docs/results.md, "On a GPU").
"""

from __future__ import annotations

from functools import lru_cache

import torch

from ..measure.flops import LayerFlops
from ..methods import (
    BlockMerging,
    KeyMerging,
    KeyPairs,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Method,
    SimilarityPruning,
    TokenMerging,
)
from ..schedules import DenoisingProgress
from ..tokens.grid import TokenGrid

BREAK_EVEN: dict[str, dict[type[Method], int]] = {  # FLOPs to save, by kind of device
    "cpu": {
        TokenMerging: 160_000_000,
        BlockMerging: 64_000_000,
        SimilarityPruning: 150_000_000,
        KVDownsampling: 21_000_000,
        KVSelection: 57_000_000,
        KVCellSelection: 20_000_000,
        KeyMerging: 180_000_000,
        KeyPairs: 400_000_000,
    },
    "NVIDIA H200": {
        TokenMerging: 200_000_000_000,
        KVDownsampling: 98_000_000_000,
        KeyMerging: 640_000_000_000,
    },
}
SIDES = range(8, 521, 8)  # tokens per side of the square grids that are tried


@lru_cache
def kind_of(device: torch.device) -> str:
    """Such as cpu, or the name of a GPU."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return device.type


@lru_cache(maxsize=1024)
def saved_flops(method: Method, grid: TokenGrid, width: int, layer_flops: LayerFlops) -> int:
    """What a layer of such a grid and width saves for one sample, less what deciding costs.

    References count as whole.
    """
    metric = torch.empty(1, grid.piece.tokens, width, device="meta")
    plan = method.plan(metric, grid.piece, DenoisingProgress(0.5), 0)
    tokens = grid.sequence_tokens
    queries, context = grid.shortened(plan.query_tokens), grid.shortened(plan.context_tokens)
    deciding = grid.pieces * method.decision_flops(width, grid.piece)
    after = deciding + layer_flops(width, tokens, queries, context)
    return layer_flops(width, tokens, tokens, tokens) - after


def why_slower(
    method: Method, grid: TokenGrid, width: int, layer_flops: LayerFlops, device: str
) -> str | None:
    """Why such a layer is expected to run slower than uncompressed on this kind of device.

    Empty if it is not, None if it has not been measured.
    """
    threshold = BREAK_EVEN.get(device, {}).get(type(method))
    if threshold is None:
        return None
    if saved_flops(method, grid, width, layer_flops) >= threshold:
        return ""
    tokens = least_tokens(method, width, layer_flops, threshold)
    breaks_even = f"breaks even at about {tokens} tokens" if tokens else "does not break even"
    return (
        f"{grid.tokens} tokens of {width} channels, where {method.name} {breaks_even} on {device}"
    )


@lru_cache(maxsize=1024)
def least_tokens(method: Method, width: int, layer_flops: LayerFlops, threshold: int) -> int | None:
    """Tokens of the smallest square image for which the method breaks even, None if none does."""
    grids = (TokenGrid(side, side) for side in SIDES)
    found = (g for g in grids if saved_flops(method, g, width, layer_flops) >= threshold)
    return next((grid.tokens for grid in found), None)

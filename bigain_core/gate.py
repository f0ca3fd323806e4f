"""Whether compressing a layer takes less time than it saves, told from measurement.

Deciding, merging and restoring go over the numbers of a layer's input a few times, however many
tokens or channels there are; the operations saved for each of these numbers grow with both. So one
threshold of operations per number holds for all sizes, widths and strengths of a method. It is
measured by `python -m benchmarks.gate` for a kind of device.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from .flops import LayerFlops, self_attention_flops
from .grid import TokenGrid
from .methods import (
    BlockMerging,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Method,
    SimilarityPruning,
    TokenMerging,
)
from .schedules import Moment

PAYS_FROM: dict[str, dict[type[Method], int]] = {  # operations per number, by kind of device
    "cpu": {
        TokenMerging: 3700,
        BlockMerging: 1500,
        SimilarityPruning: 3000,
        KVDownsampling: 600,
        KVSelection: 1500,
        KVCellSelection: 2000,
    },
}
SIDES = range(8, 521, 8)  # of square grids, in tokens, among which a size that pays is looked for


@lru_cache(maxsize=1024)
def saved_per_number(method: Method, grid: TokenGrid, width: int, layer_flops: LayerFlops) -> float:
    """Operations that a layer of such a grid and width saves, for each number of the image."""
    metric = torch.empty(1, grid.frame.tokens, width, device="meta")
    plan = method.plan(metric, grid.frame, Moment(0.5), 0)
    tokens = grid.tokens + grid.others
    queries = grid.others + grid.frames * plan.query_tokens
    context = grid.others + grid.frames * plan.context_tokens
    after = grid.frames * method.decision_flops(width, grid.frame)
    after += layer_flops(width, tokens, queries, context)
    plain = self_attention_flops(width, tokens, tokens, tokens)
    return (plain - after) / (grid.tokens * width)


def why_slower(
    method: Method, grid: TokenGrid, width: int, layer_flops: LayerFlops, device: str
) -> str | None:
    """Why such a layer is expected to be slower than a plain one on this kind of device.

    Empty where it is not, None where nobody has measured.
    """
    threshold = PAYS_FROM.get(device, {}).get(type(method))
    if threshold is None:
        return None
    if saved_per_number(method, grid, width, layer_flops) >= threshold:
        return ""
    enough = least_tokens(method, width, layer_flops, threshold)
    pays = f"from about {enough} on" if enough else "at no size"
    return (
        f"{grid.tokens} tokens of {width} channels: {method.name} pays {pays} at this width on "
        f"{device}"
    )


@lru_cache(maxsize=1024)
def least_tokens(method: Method, width: int, layer_flops: LayerFlops, threshold: int) -> int | None:
    """Tokens of the smallest square picture for which the method pays, None if none does."""
    grids = (TokenGrid(side, side) for side in SIDES)
    pays = (g for g in grids if saved_per_number(method, g, width, layer_flops) >= threshold)
    return next((grid.tokens for grid in pays), None)

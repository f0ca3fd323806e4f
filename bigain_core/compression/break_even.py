"""Whether compressing a layer takes less time than it saves, told from measurement.

Deciding, merging and restoring are a dozen steps whose time hardly depends on how small a layer is,
while the operations that they save grow with its tokens, its width and the strength of the method.
So one number for each method is enough: how many operations a layer must save. It is measured by
`python -m benchmarks.break_even` for a kind of device, for one image: a batch must not change a
result.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from ..measure.flops import LayerFlops, self_attention_flops
from ..methods import (
    BlockMerging,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Method,
    SimilarityPruning,
    TokenMerging,
)
from ..schedules import DenoisingProgress
from ..tokens.grid import TokenGrid

PAYS_FROM: dict[str, dict[type[Method], int]] = {  # FLOPs to save, by kind of device
    "cpu": {
        TokenMerging: 160_000_000,
        BlockMerging: 64_000_000,
        SimilarityPruning: 150_000_000,
        KVDownsampling: 21_000_000,
        KVSelection: 57_000_000,
        KVCellSelection: 20_000_000,
    },
}
SIDES = range(8, 521, 8)  # of square grids, in tokens, among which a size that pays is looked for


@lru_cache(maxsize=1024)
def saved_flops(method: Method, grid: TokenGrid, width: int, layer_flops: LayerFlops) -> int:
    """What a layer of such a grid and width saves for one sample, less what deciding costs."""
    metric = torch.empty(1, grid.frame.tokens, width, device="meta")
    plan = method.plan(metric, grid.frame, DenoisingProgress(0.5), 0)
    tokens = grid.tokens + grid.others
    queries = grid.others + grid.frames * plan.query_tokens
    context = grid.others + grid.frames * plan.context_tokens
    after = grid.frames * method.decision_flops(width, grid.frame)
    after += layer_flops(width, tokens, queries, context)
    plain = self_attention_flops(width, tokens, tokens, tokens)
    return plain - after


def why_slower(
    method: Method, grid: TokenGrid, width: int, layer_flops: LayerFlops, device: str
) -> str | None:
    """Why such a layer is expected to be slower than a plain one on this kind of device.

    Empty where it is not, None where nobody has measured.
    """
    threshold = PAYS_FROM.get(device, {}).get(type(method))
    if threshold is None:
        return None
    if saved_flops(method, grid, width, layer_flops) >= threshold:
        return ""
    enough = least_tokens(method, width, layer_flops, threshold)
    pays = f"from about {enough} on" if enough else "at no size"
    return (
        f"{grid.tokens} tokens of {width} channels: {method.name} pays {pays} at this width on "
        f"{device}"
    )


@lru_cache(maxsize=1024)
def least_tokens(method: Method, width: int, layer_flops: LayerFlops, threshold: int) -> int | None:
    """Tokens of the smallest square image for which the method pays, None if none does."""
    grids = (TokenGrid(side, side) for side in SIDES)
    pays = (g for g in grids if saved_flops(method, g, width, layer_flops) >= threshold)
    return next((grid.tokens for grid in pays), None)

"""Which tokens stay when only some are kept, chosen by score (paper, Table 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from .grid import TokenGrid
from .pooling import pooled_grid

SELECTION_MODES = ("high", "low", "medium", "uniform")
CELL_MODES = ("high", "low", "median")


def select_tokens(scores: Tensor, count: int, mode: str) -> Tensor:
    """`count` tokens of the whole image: scores (B, N) -> indices (B, count) in raster order.

    "high" and "low" take the largest and smallest scores, "medium" the middle of the ascending
    order, "uniform" every (N - 1) / (count - 1)-th of it (places rounded down) from the lowest to
    the highest. Of equal scores the first in raster order counts as the first.

    Raises ValueError for an unknown mode or a count outside 0..N.
    """
    tokens = scores.shape[1]
    if mode not in SELECTION_MODES or not 0 <= count <= tokens:
        raise ValueError(
            f"BiGain: expected a selection mode of {SELECTION_MODES} and a count between 0 and "
            f"{tokens} tokens, got {mode!r} and {count}."
        )
    order = scores.argsort(dim=1, descending=mode == "high", stable=True)  # (B, N)
    if mode == "uniform":
        # Whole numbers: the same places on every device, which linspace in fp32 does not give.
        places = torch.arange(count, device=scores.device) * (tokens - 1) // max(1, count - 1)
        chosen = order[:, places]
    else:
        start = (tokens - count) // 2 if mode == "medium" else 0
        chosen = order[:, start : start + count]
    return chosen.sort(dim=1).values


def select_in_cells(scores: Tensor, grid: TokenGrid, cell: int, mode: str) -> Tensor:
    """One token per window of pooling by `cell`: scores (B, N) -> indices (B, h * w).

    The windows, their number and their order are those of the average in `downsample_tokens`:
    cell x cell squares where `cell` divides both sides. "high" and "low" take the largest and
    smallest score of the window, "median" its lower median, each the first in raster order on ties.

    Raises ValueError for an unknown mode, or unless cell >= 1 and N matches the grid.
    """
    if mode not in CELL_MODES or cell < 1 or scores.shape[1] != grid.tokens:
        raise ValueError(
            f"BiGain: expected a selection mode of {CELL_MODES}, a cell of at least 1 and "
            f"{grid.tokens} scores for a {grid.height} x {grid.width} grid, got {mode!r}, cell "
            f"{cell} and {scores.shape[1]} scores."
        )
    tokens = split_windows(torch.arange(grid.tokens, device=scores.device)[None], grid, cell)
    windows = split_windows(scores, grid, cell)
    if mode == "median":
        middle = (windows.shape[-1] - 1) // 2
        windows = (windows - windows.sort(-1).values[..., middle, None]).abs()
    first = windows.argsort(dim=-1, descending=mode == "high", stable=True)[..., :1]
    return tokens.expand_as(windows).gather(-1, first).squeeze(-1)


def split_windows(values: Tensor, grid: TokenGrid, cell: int) -> Tensor:
    """values (B, N) -> (B, h * w, tokens of a window), raster order outside and inside."""
    pooled = pooled_grid(grid, cell)
    rows, columns = grid.height // pooled.height, grid.width // pooled.width
    image = values.unflatten(1, (grid.height, grid.width))
    image = image[:, : pooled.height * rows, : pooled.width * columns]
    windows = image.unflatten(1, (pooled.height, rows)).unflatten(3, (pooled.width, columns))
    return windows.transpose(2, 3).flatten(3).flatten(1, 2)

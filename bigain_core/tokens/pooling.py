"""Pooling of tokens on their grid (paper, IE-KVD)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .grid import TokenGrid


def pooled_grid(grid: TokenGrid, factor: int) -> TokenGrid:
    """Grid after pooling by `factor`: sides are divided and rounded down, but never below one."""
    return TokenGrid(max(1, grid.height // factor), max(1, grid.width // factor))


def _nearest(size: int, pooled: int, device: torch.device) -> Tensor:
    """Indices floor((i + 1/2) * size / pooled), in exact integer arithmetic."""
    return (2 * torch.arange(pooled, device=device) + 1) * size // (2 * pooled)


def downsample_tokens(x: Tensor, grid: TokenGrid, factor: int, alpha: float) -> Tensor:
    """D(alpha, s): x (B, N, C) -> (B, h * w, C) with h = H // s and w = W // s (at least 1).

    alpha * nearest + (1 - alpha) * average. alpha = 1 is nearest-exact sampling (ToDo), alpha = 0
    the average over windows of H // h by W // w tokens without overlap (remainders dropped), alpha
    > 1 extrapolates away from the average. Factor 1 returns x itself.

    Raises ValueError unless factor >= 1 and N matches the grid.
    """
    if factor < 1 or x.shape[1] != grid.tokens:
        raise ValueError(
            f"BiGain: expected a factor of at least 1 and {grid.tokens} tokens for a "
            f"{grid.height} x {grid.width} grid, got factor {factor} and {x.shape[1]} tokens."
        )
    if factor == 1:
        return x
    pooled = pooled_grid(grid, factor)
    if alpha == 1:
        return _sample_nearest(x, grid, pooled)
    average = _average(x, grid, pooled)
    if alpha == 0:
        return average
    return average.lerp(_sample_nearest(x, grid, pooled), alpha)


def _sample_nearest(x: Tensor, grid: TokenGrid, pooled: TokenGrid) -> Tensor:
    rows = _nearest(grid.height, pooled.height, x.device)
    columns = _nearest(grid.width, pooled.width, x.device)
    return x.index_select(1, (rows[:, None] * grid.width + columns).flatten())


def _average(x: Tensor, grid: TokenGrid, pooled: TokenGrid) -> Tensor:
    """Of H // h by W // w tokens each; that many fit h and w times, so remainders drop out."""
    window = (grid.height // pooled.height, grid.width // pooled.width)
    image = x.unflatten(1, (grid.height, grid.width)).movedim(-1, 1)  # (B, C, H, W)
    return functional.avg_pool2d(image, window).movedim(1, -1).flatten(1, 2)

"""Pooling of tokens on their grid (paper, IE-KVD)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .grid import TokenGrid, frame_runs


def pooled_grid(grid: TokenGrid, factor: int) -> TokenGrid:
    """Grid after pooling by `factor`: sides are divided and rounded down, but never below one."""
    return TokenGrid(max(1, grid.height // factor), max(1, grid.width // factor))


def downsample_tokens(
    x: Tensor, grid: TokenGrid, factor: int, alpha: float, places: Tensor | None = None
) -> Tensor:
    """D(alpha, s): x (B, N, C) -> (B, h * w, C) with h = H // s and w = W // s (at least 1).

    alpha * nearest + (1 - alpha) * average. alpha = 1 is nearest-exact sampling (ToDo), alpha = 0
    the average over windows of H // h by W // w tokens without overlap (remainders dropped), alpha
    > 1 extrapolates away from the average. Factor 1 returns x itself. The tokens at `places`
    (keys,), one for each window, take the place of the nearest ones; where alpha is 1 they may be
    several.

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
    image = x.unflatten(1, (grid.height, grid.width))
    if alpha == 0:
        return _average(image, pooled)
    if places is None:
        places = nearest_places(grid, factor, x.device)
    if places is None:  # a view
        down, right = grid.height // pooled.height, grid.width // pooled.width
        nearest = image[:, down // 2 :: down, right // 2 :: right].flatten(1, 2)
    else:
        nearest = x.index_select(1, places)
    return nearest if alpha == 1 else _average(image, pooled).lerp(nearest, alpha)


def downsample_film(
    x: Tensor,
    grid: TokenGrid,
    factor: int,
    frames: int,
    alpha: float,
    places: Tensor | None = None,
) -> Tensor:
    """`downsample_tokens` over runs of so many frames: x (B, N, C) -> (B, runs * h * w, C).

    The nearest tokens are those of the middle frame of a run, the average is that of all its
    frames. Runs are those of `frame_runs`.
    """
    film = x.unflatten(1, (grid.frames, -1))  # (B, frames, n, C)
    kept = []
    for part, length in frame_runs(grid.frames, frames):
        runs = film[:, part].unflatten(1, (-1, length))
        shape, blended = runs.shape[:2], []
        if alpha != 0:
            middle = runs[:, :, length // 2].flatten(0, 1)
            blended.append(downsample_tokens(middle, grid.frame, factor, 1.0, places))
        if alpha != 1:
            mean = runs.mean(2).flatten(0, 1)
            blended.append(downsample_tokens(mean, grid.frame, factor, 0.0))
        pooled = blended[0] if len(blended) == 1 else blended[1].lerp(blended[0], alpha)
        kept.append(pooled.unflatten(0, shape).flatten(1, 2))
    return torch.cat(kept, dim=1)


def nearest_places(grid: TokenGrid, factor: int, device: torch.device) -> Tensor | None:
    """(keys,) the tokens nearest to the middles of windows; None where they are evenly spaced.

    Of rows and columns the floor((i + 1/2) * size / pooled)-th, in exact integer arithmetic.
    """
    pooled = pooled_grid(grid, factor)
    if not (grid.height % pooled.height or grid.width % pooled.width):
        return None

    def along(size: int, pooled: int) -> Tensor:
        twice = torch.arange(size, 2 * size * pooled, 2 * size, device=device)
        return twice // (2 * pooled)

    rows = along(grid.height, pooled.height)[:, None]
    return torch.add(along(grid.width, pooled.width), rows, alpha=grid.width).flatten()


def _average(image: Tensor, pooled: TokenGrid) -> Tensor:
    """(B, H, W, C) -> (B, h * w, C), of H // h by W // w tokens each.

    That many fit h and w times, so remainders drop out.
    """
    window = (image.shape[1] // pooled.height, image.shape[2] // pooled.width)
    return functional.avg_pool2d(image.movedim(-1, 1), window).flatten(2).mT

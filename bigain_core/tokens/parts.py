"""Deciding for a large batch, such as the frames of a video, part by part.

Scores and cosines are computed in fp32. For all frames at once they take more memory than the layer
itself; no sample's plan depends on another, so parts give the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .grid import TokenGrid, frame_runs
from .plans import Plan, plan_tensors

AT_ONCE = 2**26  # values of the metric, 256 MiB in fp32: images, but not video, are below it


def plan_in_parts(method, metric: Tensor, grid, progress, layer_number: int) -> Plan:
    """`method.plan` for a metric (B, N, C), not much more than AT_ONCE values at a time."""
    samples = max(1, AT_ONCE // (metric.shape[1] * metric.shape[2]))
    parts = metric.split(samples)
    plans = [method.plan(part, grid, progress, layer_number) for part in parts]
    return plans[0] if len(plans) == 1 else _joined(plans)


def _joined(plans: list[Plan]) -> Plan:
    """One plan for the batches of all, one after the other."""
    rows = zip(*(plan_tensors(plan).values() for plan in plans), strict=True)
    names = plan_tensors(plans[0])
    return replace(plans[0], **dict(zip(names, map(torch.cat, rows), strict=True)))


def runs_in_parts(
    metric: Tensor, grid: TokenGrid, frames: int
) -> Iterator[tuple[Tensor, TokenGrid, Tensor]]:
    """Runs of a film (B, N, C), see `frame_runs`, not much more than AT_ONCE values at a time.

    Some of one length together, (B * runs, n, C), the grid of each of them, and the tokens of the
    film that they begin with, (runs, 1).
    """
    film = metric.unflatten(1, (grid.frames, -1))
    for part, length in frame_runs(grid.frames, frames):
        run = TokenGrid(grid.height, grid.width, length)
        step = length * max(1, AT_ONCE // (metric.shape[0] * run.tokens * metric.shape[2]))
        for start in range(part.start, part.stop, step):
            some = film[:, start : min(start + step, part.stop)].flatten(1, 2)
            runs = some.unflatten(1, (-1, run.tokens)).flatten(0, 1)
            begin = torch.arange(some.shape[1] // run.tokens, device=metric.device)
            yield runs, run, start * grid.frame.tokens + run.tokens * begin[:, None]


def in_film(tokens: Tensor, begin: Tensor) -> Tensor:
    """Tokens (B * runs, K) of runs that begin at (runs, 1) -> those of the film, (B, runs * K)."""
    return (tokens.unflatten(0, (-1, len(begin))) + begin).flatten(1)

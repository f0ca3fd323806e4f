"""Key merging: queries whole, keys and values merged by content in windows (beyond the paper)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log2
from typing import ClassVar

import torch
from torch import Tensor

from ..measure.flops import matching_flops
from ..schedules import DenoisingProgress
from ..tokens.grid import TokenGrid, frame_runs
from ..tokens.key_plans import KeyMergePlan
from ..tokens.matching import check_ratio, choose_destinations, match_tokens
from ..tokens.parts import AT_ONCE
from .base import Method, check_frames, random_bits

WHOLE_MEAN, PER_DOUBLING, LEAST_MEAN = 256, 0.15, 0.7  # see `destination_share`


@dataclass(frozen=True)
class KeyMerging(Method):
    """Tokens join the most alike of one destination per cell x cell square, within windows.

    `ratio` is the share of keys and values that is removed, of each window alike and at most
    1 - 1 / cell**2: those most alike a destination. Destinations are drawn by `seed`, the same for
    all images and prompts of a layer and timestep. Windows are `window` tokens a side, rounded down
    to whole cells; the last of a row or column also takes what is left. `alpha` is how much of a
    key is its destination rather than the mean of its group, None for `destination_share`.

    Of a film, runs of `frames` share destinations, windows and cells reach over all of a run, and
    only one in so many of the keys is left that `ratio` leaves, see `frame_runs`. Each run takes
    the same places; in which of its frames a destination lies is drawn for each cell.

    The idea has neighbours: windows in ToMA, tokens merged for attention alone in AsymRnR and DiTo,
    weights by size in ToMe.
    """

    ratio: float = 0.75
    window: int = 16
    cell: int = 2
    seed: int = 0
    alpha: float | None = None
    frames: int = 1

    metric: ClassVar[str] = "normed"
    proportional: ClassVar[bool] = True

    def __post_init__(self):
        check_ratio(self.ratio)
        check_frames(self.frames)
        if self.window < 1 or self.cell < 1:
            raise ValueError(
                "BiGain: expected windows and cells of at least 1 token a side for key merging, "
                f"got {self.window} and {self.cell}. 16 and 2 were measured best."
            )

    @property
    def name(self) -> str:
        return f"key merging {self.ratio:g}, windows of {self.window}{self.over_frames}"

    @property
    def is_identity(self) -> bool:
        return self.frames == 1 and (self.ratio == 0 or self.cell == 1)

    @property
    def after_projection(self) -> KeyMerging:
        return self

    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_number: int
    ) -> KeyMergePlan:
        batch, _, channels = metric.shape
        cells = grid.cells(self.cell).tokens
        drawn = random_bits(cells, self.seed, progress, layer_number, metric.device)
        is_chosen = torch.zeros(grid.tokens, dtype=torch.long, device=metric.device)
        for part, length in frame_runs(grid.frames, self.frames):
            run = TokenGrid(grid.height, grid.width, length)
            places = metric[:1, : run.tokens, 0]
            chosen = choose_destinations(places, run, self.cell, "random", drawn)[0]
            runs = is_chosen.view(grid.frames, -1)[part].view(-1, run.tokens)
            runs.index_fill_(1, chosen, 1)
        target = torch.arange(grid.tokens, device=metric.device).repeat(batch, 1)
        kept = []
        for windows, destinations, length in self._windows(grid, metric.device):
            removed = (length - 1 + self.ratio) / length
            for some in windows.split(max(1, AT_ONCE // (batch * channels * windows.shape[1]))):
                inside = metric[:, some].flatten(0, 1)  # (B * windows, tokens, C)
                own = is_chosen[some].argsort(dim=1, descending=True, stable=True)
                found = match_tokens(inside, own[:, :destinations].repeat(batch, 1), removed)
                stay = some.repeat(batch, 1).gather(1, found.kept)
                joined = stay.gather(1, found.position).view(batch, -1)
                target = target.index_copy(1, some.flatten(), joined)
                kept.append(stay.view(batch, -1))
        alpha = destination_share(grid.frame.tokens) if self.alpha is None else self.alpha
        return KeyMergePlan.from_target(grid, target, torch.cat(kept, dim=1), alpha)

    def _windows(self, grid: TokenGrid, device: torch.device) -> Iterator[tuple[Tensor, int, int]]:
        """Windows of one shape, (windows, tokens in each), destinations and frames of each."""
        index = torch.arange(grid.tokens, device=device)
        index = index.unflatten(0, (grid.frames, grid.height, grid.width))
        for part, length in frame_runs(grid.frames, self.frames):
            for rows, height in self._sides(grid.height):
                for columns, width in self._sides(grid.width):
                    tokens = index[part, rows, columns].unflatten(0, (-1, length))
                    tokens = tokens.unflatten(2, (-1, height)).unflatten(4, (-1, width))
                    windows = tokens.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)
                    yield windows, TokenGrid(height, width).cells(self.cell).tokens, length

    def _sides(self, length: int) -> Iterator[tuple[slice, int]]:
        """(part of a side, length of the windows in it), windows of the same length together."""
        step = max(self.cell, self.window // self.cell * self.cell)
        last = max(0, length // step - 1) * step  # where the last window begins
        if last:
            yield slice(0, last), step
        yield slice(last, length), length - last

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        found = self._windows(grid, torch.device("meta"))
        return sum(len(some) * matching_flops(width, some.shape[1], d) for some, d, _ in found)


def destination_share(tokens: int) -> float:
    """`alpha` for an image of so many tokens: 0 up to 256, .3 at 1024, .6 at 4096, at most .7.

    What a mean smooths away stays however many keys there are; what a single token is off by falls
    with their number.
    """
    return min(LEAST_MEAN, PER_DOUBLING * log2(max(1.0, tokens / WHOLE_MEAN)))

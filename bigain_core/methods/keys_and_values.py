"""Methods that leave queries whole and shorten keys and values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor

from ..placement import LayerId
from ..schedules import Alpha, AlphaSchedule, DenoisingProgress
from ..tokens.grid import TokenGrid
from ..tokens.plans import Plan, PoolPlan, SelectPlan
from ..tokens.selection import select_in_cells, select_tokens, split_windows
from .base import Method, ScoredMethod, check_frames, random_bits


class _ByFactor(Method):
    """Methods whose `factor` divides both sides of the grid."""

    def __post_init__(self):
        if self.factor < 1:
            raise ValueError(
                "BiGain: expected a downsampling factor of at least 1 (off), got "
                f"{self.factor}. The paper uses 2 and 4."
            )
        check_frames(self.frames)

    @property
    def is_identity(self) -> bool:
        return self.factor == self.frames == 1


@dataclass(frozen=True)
class KVDownsampling(_ByFactor):
    """IE-KVD: keys and values pooled by D(alpha, factor); alpha 1 is ToDo, alpha 0 the average.

    `proportional` matters where text shares the attention: a pooled key then weighs as much as the
    tokens it stands for. With `keys` a layer is pooled by the whole number, `factor` at most, that
    leaves closest to so many keys of each image or frame, a small one not at all.

    The nearest token is always at the same place of its window, which aliases with textures. With
    `random_places` it is a token of the window drawn by `seed` for each timestep, the same for all
    images and prompts of a call, and in each layer the one after that of the layer before. With
    `opposite` the token across the middle of the window is kept as well, so that what changes
    evenly over a window keeps its mean.

    Of a film, runs of `frames` share keys and values: see `downsample_film`. Keys of a shorter run
    weigh as much less as it has fewer frames.
    """

    factor: int = 2
    alpha: Alpha = AlphaSchedule(0.9, 0.9)
    proportional: bool = False
    keys: int = 0
    random_places: bool = False
    opposite: bool = False
    seed: int = 0
    frames: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.opposite and not (self.random_places and self.alpha == AlphaSchedule(1.0, 1.0)):
            raise ValueError(
                "BiGain: expected random places and alpha 1 for pairs of opposite tokens, got "
                f"{self.name}. Turn random_places on and set alpha to 1."
            )

    @property
    def name(self) -> str:
        places = ", random places" if self.random_places else ""
        how = f"alpha {self.alpha}{places}{' in opposite pairs' if self.opposite else ''}"
        how += self.over_frames
        if self.keys:
            return f"IE-KVD to about {self.keys} keys (factor <= {self.factor}), {how}"
        return f"IE-KVD factor {self.factor}, {how}"

    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_number: int
    ) -> Plan:
        factor, alpha = self._factor(grid), self.alpha.at(progress.timestep)
        if not self.random_places or factor == 1:
            return PoolPlan(grid, factor, alpha, frames=self.frames)
        tokens = torch.arange(grid.frame.tokens, device=metric.device)[None]
        windows = split_windows(tokens, grid.frame, factor)[0]  # (keys, tokens of a window)
        keys, size = windows.shape
        drawn = random_bits(keys, self.seed, progress, 0, metric.device)
        turns = (drawn[:, None] + torch.arange(size, device=metric.device)) % size  # (keys, turns)
        drawn = turns[..., None]
        if self.opposite and size > 1:
            lower = torch.minimum(turns, size - 1 - turns)
            drawn = torch.stack((lower, size - 1 - lower), dim=-1)  # (keys, turns, draws)
        draws = drawn.shape[2]
        places = windows.gather(1, drawn.flatten(1)).unflatten(1, (size, draws))
        by_turn = {metric.device: places.transpose(0, 1).flatten(1)}
        return PoolPlan(grid, factor, alpha, by_turn, self.frames, draws, layer_number)

    def reuses(self, decided: LayerId, layer_id: LayerId) -> bool:
        """Places are drawn once for all layers of a call, of which each takes its turn."""
        return self.random_places

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        return 0

    def describe(self, grid: TokenGrid) -> str:
        return replace(self, factor=self._factor(grid), keys=0).name

    def _factor(self, grid: TokenGrid) -> int:
        if not self.keys:
            return self.factor
        return min(self.factor, max(1, round(sqrt(grid.frame.tokens / self.keys))))


@dataclass(frozen=True)
class KVSelection(ScoredMethod):
    """Keys and values of the int(N * (1 - ratio)) tokens chosen by score (paper, Table 4).

    `choice` is one of "high", "low", "medium" and "uniform" over the scores of the whole grid.
    """

    choice: str = "high"
    ratio: float = 0.75

    def __post_init__(self):
        if not 0 <= self.ratio < 1:
            raise ValueError(
                "BiGain: expected a ratio of at least 0 (off) and below 1, the share of keys and "
                f"values to drop, got {self.ratio}. The paper uses 0.75."
            )

    @property
    def name(self) -> str:
        return f"KV selection {self.choice} {self.ratio:g}"

    @property
    def is_identity(self) -> bool:
        return self.ratio == 0

    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_number: int
    ) -> Plan:
        scores = self.scores(metric, grid)
        count = max(1, int(grid.tokens * (1 - self.ratio)))
        return SelectPlan(grid, select_tokens(scores, count, self.choice))


@dataclass(frozen=True)
class KVCellSelection(_ByFactor, ScoredMethod):
    """One key and value per factor x factor square, chosen by score, blended with the average.

    `choice` is "high", "low" or "median"; blend 1 is the chosen token alone, the published default
    0.5.
    """

    choice: str = "high"
    factor: int = 2
    blend: float = 0.5

    @property
    def name(self) -> str:
        return f"KV selection {self.choice} per cell of {self.factor}, blend {self.blend:g}"

    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_number: int
    ) -> Plan:
        scores = self.scores(metric, grid)
        chosen = select_in_cells(scores, grid, self.factor, self.choice)
        average = PoolPlan(grid, self.factor, alpha=0.0)
        return SelectPlan(grid, chosen, average, self.blend)

"""Methods that leave queries whole and shorten keys and values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

from torch import Tensor

from ..schedules import Alpha, AlphaSchedule, DenoisingProgress
from ..tokens.grid import TokenGrid
from ..tokens.plans import Plan, PoolPlan, SelectPlan
from ..tokens.selection import select_in_cells, select_tokens
from .base import Method, ScoredMethod


class _ByFactor(Method):
    """Methods whose `factor` divides both sides of the grid."""

    def __post_init__(self):
        if self.factor < 1:
            raise ValueError(
                "BiGain: expected a downsampling factor of at least 1 (off), got "
                f"{self.factor}. The paper uses 2 and 4."
            )

    @property
    def is_identity(self) -> bool:
        return self.factor == 1


@dataclass(frozen=True)
class KVDownsampling(_ByFactor):
    """IE-KVD: keys and values pooled by D(alpha, factor); alpha 1 is ToDo, alpha 0 the average.

    `proportional` matters where text shares the attention: a pooled key then weighs as much as the
    tokens it stands for. With `keys` a layer is pooled by the whole number, `factor` at most, that
    leaves closest to so many keys of each image or frame, a small one not at all.
    """

    factor: int = 2
    alpha: Alpha = AlphaSchedule(0.9, 0.9)
    proportional: bool = False
    keys: int = 0

    @property
    def name(self) -> str:
        if self.keys:
            return f"IE-KVD to about {self.keys} keys (factor <= {self.factor}), alpha {self.alpha}"
        return f"IE-KVD factor {self.factor}, alpha {self.alpha}"

    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_number: int
    ) -> Plan:
        return PoolPlan(grid, self._factor(grid), self.alpha.at(progress.timestep))

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        return 0

    def describe(self, grid: TokenGrid) -> str:
        return replace(self, factor=self._factor(grid), keys=0).name

    def _factor(self, grid: TokenGrid) -> int:
        if not self.keys:
            return self.factor
        return min(self.factor, max(1, round(sqrt(grid.tokens / self.keys))))


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

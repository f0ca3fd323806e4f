"""The published methods: each turns a metric into a plan, without knowing the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .flops import laplacian_flops, matching_flops
from .grid import TokenGrid
from .matching import choose_destinations, match_tokens
from .plans import Plan, PoolPlan
from .schedules import AlphaSchedule, Moment
from .scoring import score_tokens


class Method(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def is_identity(self) -> bool: ...

    def plan(self, metric: Tensor, grid: TokenGrid, moment: Moment, site: int) -> Plan:
        """Decide for one attention layer: metric (B, N, C) on `grid`; `site` is its number."""
        ...

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        """Cost of `plan` for one sample."""
        ...


@dataclass(frozen=True)
class TokenMerging:
    """Token merging: L-GTM with destinations "lowest" (paper, Algorithm 2), ToMe with "random".

    `ratio` is the share of all tokens that is removed; with one destination per cell x cell square
    it saturates at 1 - 1 / cell**2. `seed` drives random destinations: the same seed, layer and
    timestep draw the same ones whatever the batch.
    """

    ratio: float = 0.7
    destinations: str = "lowest"
    cell: int = 2
    scorer: str = "laplacian-l1"
    padding: str = "zeros"
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.ratio <= 1:
            raise ValueError(
                "BiGain: expected a merge ratio between 0 (off) and 1 (share of all tokens), got "
                f"{self.ratio}. The paper uses 0.1 to 0.75."
            )

    @property
    def name(self) -> str:
        label = {"lowest": "L-GTM", "random": "ToMe", "top-left": "ToMe (top-left)"}
        return f"{label[self.destinations]} {self.ratio:g}"

    @property
    def is_identity(self) -> bool:
        return self.ratio == 0

    def plan(self, metric: Tensor, grid: TokenGrid, moment: Moment, site: int) -> Plan:
        if self.destinations == "lowest":
            scores = score_tokens(metric, grid, self.scorer, self.padding)
        else:
            scores = metric[..., 0]  # content-free rules only read the shape
        generator = self._generator(moment, site) if self.destinations == "random" else None
        chosen = choose_destinations(scores, grid, self.cell, self.destinations, generator)
        return match_tokens(metric, chosen, self.ratio)

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        matching = matching_flops(width, grid.tokens, grid.cells(self.cell).tokens)
        scored = self.destinations == "lowest"
        return matching + (laplacian_flops(width, grid.tokens) if scored else 0)

    def _generator(self, moment: Moment, site: int) -> torch.Generator:
        key = np.random.SeedSequence([self.seed, site, round(moment.timestep * 1000)])
        return torch.Generator().manual_seed(int(key.generate_state(1)[0]))


@dataclass(frozen=True)
class KVDownsampling:
    """IE-KVD: keys and values pooled by D(alpha, factor); alpha 1 is ToDo, alpha 0 the average."""

    factor: int = 2
    alpha: AlphaSchedule = AlphaSchedule(0.9, 0.9)

    def __post_init__(self):
        if self.factor < 1:
            raise ValueError(
                "BiGain: expected a downsampling factor of at least 1 (off), got "
                f"{self.factor}. The paper uses 2 and 4."
            )

    @property
    def name(self) -> str:
        start, end = self.alpha.start, self.alpha.end
        alpha = f"{start:g}" if start == end else f"{start:g} to {end:g}"
        return f"IE-KVD factor {self.factor}, alpha {alpha}"

    @property
    def is_identity(self) -> bool:
        return self.factor == 1

    def plan(self, metric: Tensor, grid: TokenGrid, moment: Moment, site: int) -> Plan:
        return PoolPlan(grid, self.factor, self.alpha.at(moment.timestep))

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        return 0

"""What every method is: a decision for one attention layer, without knowing the host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..measure.flops import laplacian_flops
from ..placement import LayerId
from ..schedules import DenoisingProgress
from ..tokens.grid import TokenGrid
from ..tokens.plans import Plan
from ..tokens.scoring import score_tokens

METRICS = ("block input", "normed")


class Method(ABC):
    """Turns a metric into a plan.

    `metric` says which tensor it wants of a UNet: the input of the transformer block, as published,
    or what attention sees after the norm. A DiT always gives the latter, as published.
    """

    metric: ClassVar[str] = "block input"
    proportional: ClassVar[bool] = False  # keys weigh as much as the tokens they stand for

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def is_identity(self) -> bool: ...

    @abstractmethod
    def plan(
        self, metric: Tensor, grid: TokenGrid, progress: DenoisingProgress, layer_number: int
    ) -> Plan:
        """Decide for one attention layer: metric (B, N, C) on `grid`; number `layer_number`."""

    def scores(self, metric: Tensor, grid: TokenGrid) -> Tensor | None:
        """(B, N) the detail that `plan` goes by: metric (B, N, C); None where it goes by none."""
        return None

    @abstractmethod
    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        """Cost of `plan` for one sample: matrix products, and the Laplacian as a convolution."""

    def describe(self, grid: TokenGrid) -> str:
        """The name and what the report should add for a layer of this grid."""
        return self.name

    def reuses(self, decided: LayerId, layer_id: LayerId) -> bool:
        """Whether `layer_id` takes over the plan that `decided` made in the same network call."""
        return False


@dataclass(frozen=True, kw_only=True)
class ScoredMethod(Method):
    """A method that goes by the detail of tokens; `proportional` weighs merged or dropped ones."""

    scorer: str = "laplacian-l1"
    padding: str = "zeros"
    metric: str = "block input"
    proportional: bool = False

    def scores(self, metric: Tensor, grid: TokenGrid) -> Tensor | None:
        return score_tokens(metric, grid, self.scorer, self.padding)

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        """Only the Laplacian counts, as the convolution that the published code makes of it."""
        return laplacian_flops(width, grid.tokens) if self.scorer.startswith("laplacian") else 0


def seeded_generator(seed: int, progress: DenoisingProgress, layer_number: int) -> torch.Generator:
    """The same random numbers for the same seed, layer and timestep, whatever the batch."""
    key = np.random.SeedSequence([seed, layer_number, round(progress.timestep * 1000)])
    return torch.Generator().manual_seed(int(key.generate_state(1)[0]))

"""What every method is: a decision for one attention layer, without knowing the host."""

from __future__ import annotations

import math
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
    frames: ClassVar[int] = 1  # of a film, that share keys and values; above 1 it is planned whole

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def is_identity(self) -> bool: ...

    @property
    def over_frames(self) -> str:
        """How the name goes on where frames share keys and values."""
        return f", over {self.frames} frames" if self.frames > 1 else ""

    @property
    def after_projection(self) -> Method | None:
        """What goes by `keys_with_values` where queries, keys and values are at hand, if any does.

        None for a method that is to be asked before they are projected.
        """
        return None

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
        frames = metric.unflatten(1, (grid.frames, -1)).flatten(0, 1)
        scores = score_tokens(frames, grid.frame, self.scorer, self.padding)
        return scores.unflatten(0, (-1, grid.frames)).flatten(1)

    def decision_flops(self, width: int, grid: TokenGrid) -> int:
        """Only the Laplacian counts, as the convolution that the published code makes of it."""
        return laplacian_flops(width, grid.tokens) if self.scorer.startswith("laplacian") else 0


def check_frames(frames: int) -> None:
    """Raise ValueError unless so many frames can share keys and values."""
    if frames < 1:
        raise ValueError(
            "BiGain: expected at least 1 frame (each has its own) to share keys and values, got "
            f"{frames}."
        )


def random_bits(
    count: int, seed: int, progress: DenoisingProgress, layer_number: int, device: torch.device
) -> Tensor:
    """(count,) whole numbers, even over 0 to 2^32 - 1, for a seed, layer and timestep.

    They are a hash of their place (SplitMix: Steele, Lea and Flood, 2014), so any device makes the
    same ones itself and does not wait for a copy from the CPU.
    """
    key = np.random.SeedSequence([seed, layer_number, round(progress.timestep * 1000)])
    start, step = (int(part) for part in key.generate_state(2))
    step |= 1
    bits = torch.arange(start, start + count * step, step, device=device)
    for _ in range(2):
        bits = ((bits >> 16 ^ bits) & 0xFFFFFFFF) * 0x45D9F3B  # below 2^59: never overflows
    return (bits >> 16 ^ bits) & 0xFFFFFFFF


def standard_normal(bits: Tensor) -> Tensor:
    """(n,) normal numbers in fp32 of (2 * n,) random bits, two for each (Box and Muller, 1958)."""
    first, second = ((bits.float() + 0.5) / 2**32).chunk(2)  # above 0: the logarithm is finite
    return (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()

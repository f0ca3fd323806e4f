"""Bootstrap over images: every figure is a column of resamples, so that what is paired stays so."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RESAMPLES = 2000


def resamples(images: int, seed: int = 0) -> Tensor:
    """(1 + RESAMPLES, images): how often each image counts; in the first row once."""
    drawn = torch.randint(
        images, (RESAMPLES, images), generator=torch.Generator().manual_seed(seed)
    )
    counts = torch.zeros(RESAMPLES, images, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(counts))
    return torch.cat([torch.ones(1, images, dtype=torch.float64), counts])


@dataclass(frozen=True)
class Figure:
    """A value with its interval of 95 %."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, column: Tensor) -> Figure:
        """column (1 + RESAMPLES,): the value and what it is in each resample."""
        value, drawn = column[0].item(), column[1:]
        low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
        return cls(value, low, high)

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


def relative(weights: Tensor, error: Tensor, size: Tensor) -> Tensor:
    """Relative L2 error from sums of squares (images,) or (images, T) of each image."""
    return (weights @ error.double() / (weights @ size.double())).sqrt()


def mean(weights: Tensor, values: Tensor) -> Tensor:
    return weights @ values.double() / weights.sum(1)

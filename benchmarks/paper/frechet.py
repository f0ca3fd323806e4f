"""How far apart two sets of images lie, by their features: the Frechet distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RESAMPLES = 200
Z = 1.96  # covers 95 %


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean (C,) and covariance (C, C) in double precision."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Gaussian:
        """features (N, C)."""
        features = features.double()
        return cls(features.mean(0), features.T.cov())

    @property
    def root(self) -> Tensor:
        """Square root of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors * values.clamp(min=0).sqrt() @ vectors.T


def frechet_distance(one: Gaussian, root: Tensor, other: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)); `root` is that of `one`.

    The roots of the eigenvalues of C1 C2 are those of C1^(1/2) C2 C1^(1/2), which is symmetric.
    """
    inner = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0)
    traces = one.covariance.trace() + other.covariance.trace()
    squared = (one.mean - other.mean).square().sum()
    return (squared + traces - 2 * inner.sqrt().sum()).item()


@dataclass(frozen=True)
class Distance:
    """A distance, and its difference to that of another set, with half of a 95 % interval each."""

    value: float
    adapter: float
    difference: float = 0.0
    difference_reach: float = 0.0


def distance(
    real: Tensor, generated: Tensor, rival: Tensor | None = None, seed: int = 0
) -> Distance:
    """Of generated images to real ones: features (N, C) and (M, C).

    Intervals are of the bootstrap over generated images. `rival` (M, C) has images for the same
    prompts and starting noise, which are drawn together: what makes an image easy or hard falls
    out of the difference. Distances of few images come out too large, those of as many images
    alike, so only such are to be compared.
    """
    reference = Gaussian.of(real)
    root, generator = reference.root, torch.Generator().manual_seed(seed)

    def found(rows: Tensor) -> tuple[float, float]:
        own = frechet_distance(reference, root, Gaussian.of(generated[rows]))
        if rival is None:
            return own, 0.0
        return own, own - frechet_distance(reference, root, Gaussian.of(rival[rows]))

    count = len(generated)
    specs = (torch.randint(count, (count,), generator=generator) for _ in range(RESAMPLES))
    spread = torch.tensor([found(rows) for rows in specs], dtype=torch.float64).std(0).tolist()
    value, difference = found(torch.arange(count))
    return Distance(value, Z * spread[0], difference, Z * spread[1])

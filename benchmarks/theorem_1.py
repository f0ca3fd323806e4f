"""Whether a compression makes decisions more or less certain (paper, Theorem 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bigain_core.classification.trials.samplers import TrialSampler, TrialSpec


@dataclass(frozen=True)
class NoiseChange:
    """Mean and variance of one trial's difference between two prompts, plain and compressed.

    `log_ratio` is log(r' / r) with r = sigma / mu, `log_ratio_error` its jackknife standard error.
    """

    mean: float
    variance: float
    compressed_mean: float
    compressed_variance: float
    log_ratio: float
    log_ratio_error: float

    @property
    def condition(self) -> float:
        """Left minus right side of (S.15); above 0 the compression lowers the Cantelli bound.

        Var - Var' > 2 (Var / mu) (mu - mu') - (Var / mu^2) (mu - mu')^2, which says that r' < r for
        means above 0.
        """
        lost = self.mean - self.compressed_mean
        right = (2 * lost / self.mean - (lost / self.mean) ** 2) * self.variance
        return self.variance - self.compressed_variance - right

    @property
    def holds(self) -> bool:
        return self.mean > 0 and self.compressed_mean > 0 and self.condition > 0


def noise_change(
    plain: Tensor, compressed: Tensor, specs: Sequence[TrialSpec], sampler: TrialSampler
) -> NoiseChange:
    """Compare differences (T,) between the same two prompts in the same trials.

    Raises ValueError for fewer than three trials.
    """
    count = len(specs)
    if count < 3 or plain.shape != (count,) or compressed.shape != (count,):
        raise ValueError(
            f"BiGain: expected differences of the same three trials or more, got {count} trials "
            f"with {tuple(plain.shape)} and {tuple(compressed.shape)} differences."
        )
    pair = torch.stack([plain, compressed]).double()
    mean, variance = _moments(pair, specs, sampler)
    without = [
        _log_ratio(*_moments(pair[:, [*range(n), *range(n + 1, count)]],
                             [*specs[:n], *specs[n + 1 :]], sampler))
        for n in range(count)
    ]  # fmt: skip
    spread = torch.tensor(without, dtype=torch.float64).var(correction=0)
    return NoiseChange(
        mean[0].item(),
        variance[0].item(),
        mean[1].item(),
        variance[1].item(),
        _log_ratio(mean, variance),
        ((count - 1) * spread).sqrt().item(),
    )


def _moments(
    pair: Tensor, specs: Sequence[TrialSpec], sampler: TrialSampler
) -> tuple[Tensor, Tensor]:
    """Means and variances (2,) of one trial, the latter by what the mean's variance is."""
    return sampler.score(pair, specs), sampler.variance(pair, specs) * sampler.units(specs)


def _log_ratio(mean: Tensor, variance: Tensor) -> float:
    ratio = variance.sqrt() / mean.abs()
    return (ratio[1] / ratio[0]).log().item()

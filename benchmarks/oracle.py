"""A world whose best denoiser is known: classes are Gaussians of independent coefficients.

Class k has mean mu_k, zero but for a few coefficients, and all classes share variances that fall
with frequency as in natural images. What a perfect network would predict, the likelihood of an
image and thus the best possible classification are then closed formulas, so everything that the
classifier promises can be checked without a network (tests) and measured at large (benchmarks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bigain_core.classification import NoiseSchedule, Trial


@dataclass(frozen=True, eq=False)
class GaussianWorld:
    """Means (K, D) of classes and variances (D,) of the coefficients around them, fp64."""

    means: Tensor
    variances: Tensor

    @classmethod
    def random(
        cls, classes: int, seed: int, shift: float, changed: int = 24, size: int = 512
    ) -> GaussianWorld:
        """Every class moves `changed` coefficients by normal numbers, `shift` deviations large."""
        generator = torch.Generator().manual_seed(seed)
        frequencies = torch.arange(1, size + 1, dtype=torch.float64)
        variances = 4 * frequencies**-0.75
        means = torch.zeros(classes, size, dtype=torch.float64)
        for mean in means:
            where = torch.randperm(size, generator=generator)[:changed]
            moves = torch.randn(changed, generator=generator, dtype=torch.float64)
            mean[where] = shift * variances[where].sqrt() * moves
        return cls(means, variances)

    def images(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Images (count, D) in fp32 and their classes (count,)."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(len(self.means), (count,), generator=generator)
        noise = torch.randn(count, len(self.variances), generator=generator, dtype=torch.float64)
        return (self.means[labels] + self.variances.sqrt() * noise).float(), labels

    def log_likelihoods(self, images: Tensor) -> Tensor:
        """log p(image | class) (B, K) up to a constant of the image, in nats."""
        offs = images.double()[:, None] - self.means
        return -(offs.square() / self.variances).sum(-1) / 2


@dataclass(frozen=True, eq=False)
class OracleDenoiser:
    """The best denoiser of a world, by way of what a network of `schedule.predicts` would give."""

    world: GaussianWorld
    schedule: NoiseSchedule

    def __call__(self, latent: Tensor, trial: Trial, prompts: Sequence[int]) -> Tensor:
        a, b = trial.level.signal, trial.level.noise
        noisy = a * latent.double() + b * trial.noise.double()
        means, variances = self.world.means[list(prompts)], self.world.variances
        eps = b / (a**2 * variances + b**2) * (noisy - a * means)
        clean = (noisy - b * eps) / a
        predicts = self.schedule.predicts
        if predicts == "flow":
            return noisy - b * (eps - clean)
        if predicts == "v":  # of the same latent scaled to variance 1
            scale = (a**2 + b**2) ** 0.5
            signal, spread = a / scale, b / scale
            velocity = signal * eps - spread * clean
            return signal * noisy / scale - spread * velocity
        return clean

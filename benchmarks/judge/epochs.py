"""A model that is trained too long, whose error on new images is a formula in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from benchmarks.noise_schedules import alphas_cumprod, variance_preserving
from bigain_core.classification import Blocks, ErrorSource, TrialPlan
from bigain_core.classification.datasets.held_out_comparison import (
    ModelComparison,
    compare,
    errors_under,
)

TRIALS = 4
EPOCHS, RATE = 16, 0.09
SIDE, SPREAD = 6, 0.5  # of a square of latent pixels, and of an image about the mean of all
SCHEDULE = variance_preserving(alphas_cumprod("scaled-linear"))

Markdown = Callable[[Sequence[str], object], None]


class Normal:
    """Denoisers of normal images, each with its own idea (K, D) of their mean: one per prompt."""

    schedule = SCHEDULE

    def __init__(self, means: Tensor):
        self.means = means

    def __call__(self, latent: Tensor, trial, prompts: Sequence[int]) -> Tensor:
        noisy = (latent + trial.level.noise / trial.level.signal * trial.noise).flatten().double()
        gain = SPREAD**2 * trial.level.snr / (SPREAD**2 * trial.level.snr + 1)
        means = self.means[prompts]
        return (means + gain * (noisy - means)).view(-1, *latent.shape)


@dataclass(frozen=True, eq=False)
class Training:
    """Gradient descent on two images: it passes the true mean and goes on to theirs."""

    seed: int = 2

    @cached_property
    def truth(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return 0.5 * torch.randn(SIDE**2, generator=generator).double()

    @cached_property
    def means(self) -> Tensor:
        """(EPOCHS, D)"""
        generator = torch.Generator().manual_seed(10_000 + self.seed)
        images = self.truth + SPREAD * torch.randn(2, SIDE**2, generator=generator)
        mean, found = torch.zeros_like(self.truth), []
        for _ in range(EPOCHS):
            mean = mean - RATE * (mean - images.mean(0))
            found.append(mean)
        return torch.stack(found)

    @cached_property
    def true_errors(self) -> Tensor:
        """(EPOCHS,) how far the mean error of the noise is above that of the true mean: exactly."""
        levels = [SCHEDULE.level(t) for t in range(1000)]
        weights = [level.snr / (SPREAD**2 * level.snr + 1) ** 2 for level in levels]
        return sum(weights) / 1000 * (self.means - self.truth).square().mean(1)

    def held_out(self, count: int, seed: int) -> Tensor:
        drawn = torch.randn(count, SIDE**2, generator=torch.Generator().manual_seed(seed))
        return (self.truth + SPREAD * drawn).float().view(count, 1, SIDE, SIDE)

    def compared(self, count: int, seed: int = 0, **options) -> ModelComparison:
        """The epochs compared on new images."""
        images, denoiser = self.held_out(count, seed), Normal(self.means)
        plan = TrialPlan((TRIALS,), (1,), sampler=Blocks(TRIALS))
        names = [f"epoch {k + 1}" for k in range(EPOCHS)]

        def measure(model: int, start: int, end: int) -> Tensor:
            numbers = range(start, end)
            sources = (
                ErrorSource(denoiser, images[n], names, plan, 1000 * seed + n) for n in numbers
            )
            means = [sum(errors_under(source, model)) / TRIALS for source in sources]
            return torch.tensor(means, dtype=torch.float64)

        return compare(names, count, measure, **options)


def report(runs: int, images: int, markdown: Markdown) -> None:
    rows = []
    for seed in range(runs):
        training = Training(seed)
        found, true = training.compared(images, seed), training.true_errors
        best = int(true.argmin())
        saved = 1 - found.images.sum().item() / (images * EPOCHS)
        excess = (true[found.best] / true.min()).item() - 1
        last = EPOCHS - 1 in found.alive
        rows.append(
            [best in found.alive, found.best == best, excess, len(found.alive), saved, last]
        )
    kept, hit, excess, left, last, saved = torch.tensor(rows).double().mean(0).tolist()
    print(f"\n{runs} trainings of {EPOCHS} epochs, each judged by {images} new images.\n")
    head = ["best epoch kept", "named best", "excess error of the named one", "epochs left"]
    head += ["last epoch left", "evaluations saved"]
    row = [
        f"{kept:.2f}",
        f"{hit:.2f}",
        f"{excess:.1%}",
        f"{left:.1f}",
        f"{last:.2f}",
        f"{saved:.0%}",
    ]
    markdown(head, [row])

"""Which of several models predicts held-out images best, and which differences are real."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from ...text import abbreviate, csv_table
from ..elimination.elimination_rules import EliminationStep, Sequential
from ..elimination.student_t import student_quantile
from ..errors import ErrorSource
from ..trials.samplers import Progress, TrialSpec, UniformTimes
from .image_folder import LabelledImage

FIRST_ROUND, LARGEST_ROUND = 8, 512
LEVEL = 0.95
DELTA = 0.05
COLUMNS = ("rank", "model", "images", "mean_error", "behind_best", "low", "high", "worse")


def rounds(images: int) -> list[int]:
    """After how many images models may be dropped: first 8, then twice as many, 512 more at most.

    Few rounds, as each loads every model that is left once.
    """
    ends = [min(FIRST_ROUND, images)]
    while ends[-1] < images:
        ends.append(min(ends[-1] + min(ends[-1], LARGEST_ROUND), images))
    return ends


def shuffled(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """In an order that has nothing to do with what they show, and that new ones do not change."""
    return sorted(images, key=lambda image: hashlib.sha256(_bytes(image.file)).digest())


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def errors_under(source: ErrorSource, prompt: int) -> list[float]:
    """The errors of one prompt in all trials of a plan, whose noise depends on the image alone."""
    plan, specs, errors = source.plan, [], []
    for _ in range(plan.elimination_steps[-1]):
        known = torch.tensor([errors], dtype=torch.float64)
        progress = Progress(plan.seed, source.image, tuple(specs), known, [0])
        specs.append(plan.sampler.draw(plan.trials, progress))
        errors.append(source.errors(specs[-1], [prompt]).item())
    return errors


def compare(
    names: Sequence[str],
    images: int,
    measure: Callable[[int, int, int], Tensor],
    delta: float | None = DELTA,
) -> ModelComparison:
    """Models drop out of a comparison as prompts do: an image is a trial that all of them have.

    measure(model, start, end) gives the mean errors of a model on images start to end, NaN for
    those that cannot be read. After each of the `rounds` those models are dropped whose
    probabilities of being better than the leader add up to no more than `delta` over all rounds;
    None drops nobody. The race ends with one model or the last image.

    Raises ValueError if no image can be read.
    """
    errors = torch.full((len(names), images), torch.nan, dtype=torch.float64)
    alive, ends = list(range(len(names))), rounds(images)
    for start, end in pairwise([0, *ends]):
        for model in alive:
            errors[model, start:end] = measure(model, start, end)
        if delta is not None:
            kept = _kept(errors[alive, :end], delta / len(ends), len(names))
            alive = [alive[row] for row in kept]
        if len(alive) == 1:
            break
    if not errors.isfinite().any():
        raise ValueError(
            "BiGain: expected images that can be read, got none. The folder holds other files "
            "under the names of images, or damaged ones."
        )
    return ModelComparison(tuple(names), errors, tuple(alive))


def _kept(errors: Tensor, delta: float, models: int) -> list[int]:
    """Rows that are not dropped of errors (A, n) on the same images."""
    errors = errors[:, errors.isfinite().all(0)]
    if errors.shape[1] < 2:
        return list(range(len(errors)))
    specs = tuple(TrialSpec(0, image) for image in range(errors.shape[1]))
    step = EliminationStep(errors, specs, UniformTimes(), models, range(len(errors)))
    return Sequential(delta).keeps(step)


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """Mean errors (M, N) of each model on each image, NaN from where a model was dropped.

    `alive` are the models that nothing speaks against.
    """

    names: tuple[str, ...]
    errors: Tensor
    alive: tuple[int, ...]

    @cached_property
    def images(self) -> Tensor:
        """(M,) how many images each model had."""
        return self.errors.isfinite().sum(1)

    @cached_property
    def best(self) -> int:
        """Of those that are left, which all had the same images."""
        return min(self.alive, key=lambda model: self.errors[model].nanmean().item())

    @cached_property
    def behind(self) -> list[tuple[float, float, float]]:
        """Of each model: by how much its mean error is above that of the best on the same images.

        With the 95 % interval of the paired t-test, lower end first; of the best itself zeros. An
        interval of less than two images is infinite. Those of dropped models end where these looked
        bad, so they overstate the difference a little.
        """
        return [self._behind(model) for model in range(len(self.names))]

    def _behind(self, model: int) -> tuple[float, float, float]:
        if model == self.best:
            return 0.0, 0.0, 0.0
        differences = self.errors[model] - self.errors[self.best]
        differences = differences[differences.isfinite()]
        count, mean = len(differences), differences.mean().item()
        if count < 2:
            return mean, -torch.inf, torch.inf
        error = differences.std().item() / count**0.5
        half_width = student_quantile((1 + LEVEL) / 2, count - 1) * error
        return mean, mean - half_width, mean + half_width

    @cached_property
    def mean_errors(self) -> list[float]:
        """As if each model had had all images of the best: its error and what they are behind."""
        whole = self.errors[self.best].nanmean().item()
        return [whole + behind for behind, _, _ in self.behind]

    @property
    def order(self) -> list[int]:
        """Best first: those that are left before those that were dropped."""
        return sorted(
            range(len(self.names)),
            key=lambda model: (model not in self.alive, self.behind[model][0]),
        )

    def table(self) -> str:
        """CSV with a row per model, best first."""
        rows = (
            [
                rank,
                self.names[model],
                int(self.images[model]),
                f"{self.mean_errors[model]:.7g}",
                *(f"{value:.4g}" for value in self.behind[model]),
                "no" if model in self.alive else "yes",
            ]
            for rank, model in enumerate(self.order, 1)
        )
        return csv_table(COLUMNS, rows)

    def __str__(self) -> str:
        images = int(self.images[self.best])
        lines = [
            f"best of {len(self.names)}: {self.names[self.best]}, mean error "
            f"{self.mean_errors[self.best]:.6g} on {images} images"
        ]
        others = [self.names[model] for model in self.order[1:] if model in self.alive]
        if others:
            lines.append(f"as good, as far as these images tell: {abbreviate(others)}")
        dropped = [model for model in self.order if model not in self.alive]
        if dropped:
            worse = [f"{self.names[model]} (+{self._percent(model):.2g} %)" for model in dropped]
            lines.append(f"worse: {abbreviate(worse)}")
        saved = 1 - self.images.sum().item() / (images * len(self.names))
        if saved > 0:
            lines.append(f"{saved:.0%} of the evaluations saved by dropping models early")
        return "\n".join(lines)

    def _percent(self, model: int) -> float:
        return 100 * self.behind[model][0] / self.mean_errors[self.best]

"""A way of choosing trials that did not help trained models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bigain_core.classification import TrialSpec
from bigain_core.classification.trials.noise import TIMESTEPS, trial_position
from bigain_core.classification.trials.samplers import Progress, TrialSampler, collapsed_variance


@dataclass(frozen=True)
class MirroredPairs(TrialSampler):
    """Experiment: noise and the same noise turned around at neighbouring timesteps.

    Blocks of eight: four at evenly spaced places, then their mirrors. It helps a linear denoiser
    and did not help a trained one.
    """

    places: int = 4
    distance: float = 1 / 32  # from the middle of a pair to either

    def draw(self, trials: tuple[int, ...], progress: Progress) -> TrialSpec:
        block, rest = divmod(len(progress.specs), 2 * self.places)
        mirrored, place = divmod(rest, self.places)
        pair = block * self.places + place
        start = trial_position(progress.seed, progress.image, 0)
        middle = (van_der_corput(pair) + start) % 1
        position = middle + (self.distance if mirrored else -self.distance)
        timestep = min(max(int(position * TIMESTEPS), 0), TIMESTEPS - 1)
        return TrialSpec(timestep, pair, -1 if mirrored else 1)

    def _pairs(self, errors: Tensor, specs: Sequence[TrialSpec]) -> Tensor:
        """Means of both trials of a pair, or the one that took place, in order of time."""
        members: dict[int, list[int]] = {}
        for number in sorted(range(len(specs)), key=lambda n: specs[n].timestep):
            members.setdefault(specs[number].noise, []).append(number)
        return torch.stack([errors[..., pair].mean(-1) for pair in members.values()], -1)

    def variance(self, errors: Tensor, specs: Sequence[TrialSpec]) -> Tensor:
        return collapsed_variance(self._pairs(errors, specs))

    def units(self, specs: Sequence[TrialSpec]) -> int:
        return len({spec.noise for spec in specs})


def van_der_corput(number: int) -> float:
    """Bits of the number behind the point: 0, 1/2, 1/4, 3/4, ..."""
    value, step = 0.0, 0.5
    while number:
        value += step * (number % 2)
        number //= 2
        step /= 2
    return value

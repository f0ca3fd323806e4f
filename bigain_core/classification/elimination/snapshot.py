"""How the prompts stand while trials go on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isnan

import torch
from torch import Tensor

from ..trials.samplers import TrialSpec
from .trial_plan import TrialPlan


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An image after a trial: who is left, and the errors (P, n) of all, NaN where not tried."""

    image: int
    alive: tuple[int, ...]
    errors: Tensor
    specs: tuple[TrialSpec, ...]
    plan: TrialPlan

    @cached_property
    def behind(self) -> list[float]:
        """By how much the score of each prompt is above the leader's, in the trials both had.

        NaN for a prompt that had none.
        """
        score = self.plan.sampler.score
        leader = self.alive[int(score(self.errors[list(self.alive)], self.specs).argmin())]
        found = self.errors.new_full((len(self.errors),), torch.nan)
        trials = self.errors.isfinite().sum(1)  # who is dropped once is dropped for good
        for count in set(trials.tolist()) - {0}:
            same = trials == count
            differences = self.errors[same, :count] - self.errors[leader, :count]
            found[same] = score(differences, self.specs[:count])
        return found.tolist()

    @property
    def order(self) -> list[int]:
        """Best first: prompts that are left, then those that were dropped, then those not tried."""
        behind, left = self.behind, set(self.alive)

        def place(prompt: int) -> tuple:
            untried = isnan(behind[prompt])
            return prompt not in left, untried, 0.0 if untried else behind[prompt]

        return sorted(range(len(behind)), key=place)

    @property
    def most_left(self) -> int:
        """Evaluations that may still come for this image: no more are dropped than must be."""
        done, present, left = len(self.specs), len(self.alive), 0
        for step, keep in zip(
            self.plan.elimination_steps, self.plan.kept(len(self.errors)), strict=True
        ):
            left += max(step - done, 0) * present
            done, present = max(step, done), min(present, keep)
        return left

"""How the prompts stand while trials go on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isnan

import torch
from torch import Tensor

from .designs import Draw
from .plan import TrialPlan


@dataclass(frozen=True, eq=False)
class Standing:
    """An image after a trial: who is left, and the errors (P, n) of all, NaN where not tried."""

    image: int
    alive: tuple[int, ...]
    errors: Tensor
    draws: tuple[Draw, ...]
    plan: TrialPlan

    @cached_property
    def behind(self) -> list[float]:
        """By how much the score of each prompt is above the leader's, in the trials both had.

        NaN for a prompt that had none.
        """
        score = self.plan.design.score
        leader = self.alive[int(score(self.errors[list(self.alive)], self.draws).argmin())]
        found = self.errors.new_full((len(self.errors),), torch.nan)
        trials = self.errors.isfinite().sum(1)  # who is dropped once is dropped for good
        for count in set(trials.tolist()) - {0}:
            same = trials == count
            differences = self.errors[same, :count] - self.errors[leader, :count]
            found[same] = score(differences, self.draws[:count])
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
        done, present, left = len(self.draws), len(self.alive), 0
        for look, keep in zip(self.plan.looks, self.plan.kept(len(self.errors)), strict=True):
            left += max(look - done, 0) * present
            done, present = max(look, done), min(present, keep)
        return left

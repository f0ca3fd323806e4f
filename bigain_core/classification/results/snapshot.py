"""How the prompts stand while trials go on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isnan

from ..elimination.trial_plan import TrialPlan
from .trial_table import TrialTable


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An image after a trial: who is left, and the errors of all prompts so far."""

    image: int
    alive: tuple[int, ...]
    table: TrialTable
    plan: TrialPlan

    @cached_property
    def behind(self) -> list[float]:
        """By how much the score of each prompt is above the leader's, in the trials both had.

        NaN for a prompt that had none.
        """
        errors = self.table.errors
        leader = self.alive[int(self.table.mean_errors[list(self.alive)].argmin())]
        return self.table.score(errors - errors[leader]).tolist()

    @property
    def order(self) -> list[int]:
        """Best first: prompts that are left, then those that were dropped, then those not tried."""
        behind, left = self.behind, set(self.alive)
        return sorted(
            range(len(behind)), key=lambda k: (k not in left, isnan(behind[k]), behind[k])
        )

    @property
    def max_calls_left(self) -> int:
        """Evaluations that may still come for this image: no more are dropped than must be."""
        return self.plan.calls(len(self.behind), len(self.table.specs), len(self.alive))

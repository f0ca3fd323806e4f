"""Everything that decides how prompts are told apart, apart from the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..trials.losses import LOSSES
from ..trials.noise import TIMESTEPS
from ..trials.samplers import AdaptiveTimes, Blocks, PublishedGrid, SpreadGrid, TrialSampler
from ..trials.weighting import WEIGHTINGS
from .elimination_rules import Certified, Rule, Sequential, Staged, check_blocks


@dataclass(frozen=True)
class Budget:
    """Most network evaluations and most seconds for one image; None for no limit.

    A trial is begun only if it stays within the calls, and once the time is over none is. The
    first trial always takes place.
    """

    calls: int | None = None
    seconds: float | None = None

    def __post_init__(self):
        if any(limit is not None and limit <= 0 for limit in (self.calls, self.seconds)):
            raise ValueError(
                "BiGain: expected a budget above 0 calls and 0 seconds, got "
                f"{self.calls} and {self.seconds}. None stands for no limit."
            )

    def is_over(self, calls: float, seconds: float) -> bool:
        """Whether so many evaluations would be too many, or the time is over."""
        return (self.calls is not None and calls > self.calls) or (
            self.seconds is not None and seconds >= self.seconds
        )


@dataclass(frozen=True)
class TrialPlan:
    """How many trials, which ones, when prompts are dropped, how errors are taken.

    trials: numbers of trials in total after which `rule` may drop prompts, and `keep`: how many
    prompts each of these elimination steps keeps at most. `keep` None takes the lists of the rule;
    for the staged rule those published: (1,), (5, 1) and (50, 10, 1) for one, two and three stages,
    each bounded by the number of prompts. The defaults are those of the paper.
    """

    trials: tuple[int, ...] = (5, 20)
    keep: tuple[int, ...] | None = None
    loss: str = "l2"
    seed: int = 0
    weighting: str = "native"
    sampler: TrialSampler = PublishedGrid()
    rule: Rule = Staged()
    budget: Budget = Budget()

    def __post_init__(self):
        ascending = all(a < b for a, b in zip(self.trials, self.trials[1:], strict=False))
        if not self.trials or min(self.trials) < 1 or max(self.trials) > TIMESTEPS or not ascending:
            raise ValueError(
                f"BiGain: expected ascending numbers of trials between 1 and {TIMESTEPS}, one per "
                f"stage (for example 5, 20), got {list(self.trials)}."
            )
        if self.loss not in LOSSES:
            raise ValueError(f"BiGain: expected a loss of {LOSSES}, got {self.loss!r}.")
        if self.seed < 0:
            raise ValueError(f"BiGain: expected a seed of at least 0, got {self.seed}.")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"BiGain: expected a weighting of {WEIGHTINGS}, got {self.weighting!r}."
            )
        if isinstance(self.rule, Certified):
            check_blocks(self.sampler, self.trials)
        self.sampler.elimination_steps(self.trials)  # raises for more trials than the sampler has

    def kept(self, prompts: int) -> tuple[int, ...]:
        """How many prompts each elimination step keeps at most, for this many prompts.

        Raises ValueError when a list was given that does not fit the stages or the prompts.
        """
        if self.keep is None:
            return self.rule.caps(self.trials, prompts)
        keep = self.keep
        descending = all(a >= b for a, b in zip(keep, keep[1:], strict=False))
        if len(keep) != len(self.trials) or keep[-1] != 1 or not descending:
            raise ValueError(
                f"BiGain: expected {len(self.trials)} descending numbers of kept prompts that end "
                f"in 1 (one per stage), got {list(keep)}."
            )
        if keep[0] > prompts:
            raise ValueError(
                f"BiGain: expected to keep at most the {prompts} prompts that are present, got "
                f"{keep[0]}. Lower `keep` or leave it at auto."
            )
        return keep

    @property
    def elimination_steps(self) -> tuple[int, ...]:
        """Numbers of trials after which prompts are dropped; the last is the most there are."""
        return self.sampler.elimination_steps(self.trials)

    @property
    def timesteps(self) -> list[int]:
        """All timesteps that may be visited, in the order of evaluation where that is fixed."""
        return self.sampler.timesteps(self.trials)

    def calls(self, prompts: int, done: int = 0, left: int | None = None) -> int:
        """Network evaluations (one prompt at one timestep) for one image; the most there can be.

        Those still to come, where `left` of the prompts are left after `done` trials.
        """
        total, present = 0, prompts if left is None else left
        for step, keep in zip(self.elimination_steps, self.kept(prompts), strict=True):
            total += max(step - done, 0) * present
            done, present = max(step, done), min(present, keep)
        return total

    def screening(self, trials: int = 5) -> TrialPlan:
        """For a cheaper model that sees all prompts before: so many trials of the spread grid."""
        return replace(
            self,
            trials=(trials,),
            keep=(1,),
            sampler=SpreadGrid(),
            rule=Staged(),
            budget=replace(self.budget, seconds=None),
        )


GRID_STEPS = (5, 8, 11, 14, 17, 20)
EARLY_STEPS = (3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20)
LATE_STEPS = (24, 28, 32, 40, 48, 56, 64)
CERTIFIED_TRIALS = 200

# fast and balanced spend as much as they need up to 14 and 20 trials, thorough up to 64;
# "sequential" has the trials of the paper and stops earlier.
PLANS = {
    "fast": TrialPlan(
        (2, *EARLY_STEPS[:8]), sampler=AdaptiveTimes(from_grid=2), rule=Sequential(0.1)
    ),
    "balanced": TrialPlan(EARLY_STEPS, sampler=AdaptiveTimes(), rule=Sequential()),
    "thorough": TrialPlan(
        (*EARLY_STEPS, *LATE_STEPS), sampler=AdaptiveTimes(), rule=Sequential(0.01)
    ),
    "sequential": TrialPlan(GRID_STEPS, sampler=SpreadGrid(), rule=Sequential()),
    "paper [5, 20]": TrialPlan(),
    "paper [5, 20, 100]": TrialPlan((5, 20, 100)),
    "certified": TrialPlan(
        tuple(range(12, CERTIFIED_TRIALS + 1, 4)), sampler=Blocks(4), rule=Certified()
    ),
}

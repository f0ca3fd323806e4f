"""The paper's adaptive plan: nested timesteps, stages and kept prompts."""

from __future__ import annotations

from dataclasses import dataclass

from .noise import TIMESTEPS

LOSSES = ("l2", "l1", "huber")
DEFAULT_KEEP = {1: (1,), 2: (5, 1), 3: (50, 10, 1)}


def trial_timesteps(trial_list: tuple[int, ...]) -> list[list[int]]:
    """New timesteps of each stage: mid-points of evenly spaced bins, nested over the stages.

    (5, 20) gives 125, 325, 525, 725, 925 and then the other 15 of 25, 75, ..., 975. As published, a
    stage whose grid does not contain the one before it evaluates all of its own timesteps anew:
    (5, 20, 100) visits 5, 25 and 100 timesteps cumulatively.
    """
    most = max(trial_list)
    stride = TIMESTEPS // most
    grid = list(range(stride // 2, TIMESTEPS, stride))[:most]
    done: set[int] = set()
    stages = []
    for count in trial_list:
        step = most // count
        fresh = [t for t in grid[step // 2 :: step][:count] if t not in done]
        done.update(fresh)
        stages.append(fresh)
    return stages


@dataclass(frozen=True)
class TrialPlan:
    """How many trials each stage has in total, how many prompts survive it, how errors are taken.

    `keep` None stands for the published lists: (1,), (5, 1) and (50, 10, 1) for one, two and three
    stages, each bounded by the number of prompts. Published: trials (5, 20), loss "l2".
    """

    trials: tuple[int, ...] = (5, 20)
    keep: tuple[int, ...] | None = None
    loss: str = "l2"
    seed: int = 0

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

    def kept(self, prompts: int) -> tuple[int, ...]:
        """Survivors of each stage for this many prompts.

        Raises ValueError when a list was given that does not fit the stages or the prompts.
        """
        if self.keep is None:
            if len(self.trials) not in DEFAULT_KEEP:
                raise ValueError(
                    f"BiGain: expected a list of kept prompts, one number per stage, for "
                    f"{len(self.trials)} stages; the published lists cover up to three. "
                    "Fill in `keep`, for example 50, 20, 5, 1."
                )
            return tuple(min(count, prompts) for count in DEFAULT_KEEP[len(self.trials)])
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
    def timesteps(self) -> list[int]:
        """All timesteps in the order of evaluation."""
        return [timestep for stage in trial_timesteps(self.trials) for timestep in stage]

    def calls(self, prompts: int) -> int:
        """Network evaluations (one prompt at one timestep) for one image."""
        present = (prompts, *self.kept(prompts))
        stages = trial_timesteps(self.trials)
        return sum(len(stage) * count for stage, count in zip(stages, present, strict=False))

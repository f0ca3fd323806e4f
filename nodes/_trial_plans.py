"""The plan of a classification from what a user chose."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..bigain_core.classification import (
    PLANS,
    AdaptiveTimes,
    Budget,
    PublishedGrid,
    Sequential,
    SpreadGrid,
    Staged,
    TrialPlan,
    UniformTimes,
)

AUTO, CUSTOM = "auto", "custom"
PRESETS = [CUSTOM, *PLANS]
SAMPLERS = {
    "published": PublishedGrid(),
    "spread": SpreadGrid(),
    "uniform": UniformTimes(),
    "adaptive": AdaptiveTimes(),
}


@dataclass(frozen=True)
class TrialChoices:
    """Inputs of the classifier. Zeros and "auto" leave a choice to the preset.

    `trials` and `keep` are for "custom" alone. What came later has a default: older workflows lack
    it.
    """

    trials: str
    keep: str
    loss: str
    trial_seed: int
    preset: str = CUSTOM
    weighting: str = "native"
    design: str = AUTO
    delta: float = 0.0
    max_evaluations: int = 0
    max_seconds: float = 0.0

    def plan(self) -> TrialPlan:
        """Raises ValueError for choices that do not go together."""
        plan = PLANS.get(self.preset, TrialPlan())
        changes = {"loss": self.loss, "seed": self.trial_seed, "weighting": self.weighting}
        changes["budget"] = Budget(self.max_evaluations or None, self.max_seconds or None)
        if self.preset == CUSTOM:
            changes["trials"] = _numbers("trials", self.trials)
            keep = None if self.keep.strip() == AUTO else _numbers("keep", self.keep)
            changes["keep"] = keep
        if self.design != AUTO:
            changes["sampler"] = SAMPLERS[self.design]
        if self.delta:
            sequential = isinstance(plan.rule, Staged)
            rule = Sequential(self.delta) if sequential else replace(plan.rule, delta=self.delta)
            changes["rule"] = rule
        return replace(plan, **changes)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"BiGain: expected whole numbers separated by commas in `{name}`, for example 5, 20, "
            f"got {text!r}."
        ) from error

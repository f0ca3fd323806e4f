"""The plan of a classification from what a user chose."""

from __future__ import annotations

from dataclasses import replace

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
USUAL = "balanced"
PRESETS = [USUAL, *(name for name in PLANS if name != USUAL), CUSTOM]
SAMPLERS = {
    "published": PublishedGrid(),
    "spread": SpreadGrid(),
    "uniform": UniformTimes(),
    "adaptive": AdaptiveTimes(),
}


def chosen_plan(
    *,
    preset: str,
    loss: str,
    trial_seed: int,
    trials: str = "",
    keep: str = AUTO,
    weighting: str = "native",
    design: str = AUTO,
    delta: float = 0.0,
    max_evaluations: int = 0,
    max_seconds: float = 0.0,
) -> TrialPlan:
    """The plan of these inputs of the classifier. Zeros and "auto" leave a choice to the preset.

    `trials` and `keep` are for "custom" alone. What came later has a default: older workflows lack
    it.

    Raises ValueError for choices that do not go together.
    """
    plan = PLANS.get(preset, TrialPlan())
    changes = {"loss": loss, "seed": trial_seed, "weighting": weighting}
    changes["budget"] = Budget(max_evaluations or None, max_seconds or None)
    if preset == CUSTOM:
        changes["trials"] = _numbers("trials", trials)
        changes["keep"] = None if keep.strip() == AUTO else _numbers("keep", keep)
    if design != AUTO:
        changes["sampler"] = SAMPLERS[design]
    if delta:
        staged = isinstance(plan.rule, Staged)
        changes["rule"] = Sequential(delta) if staged else replace(plan.rule, delta=delta)
    return replace(plan, **changes)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"BiGain: expected whole numbers separated by commas in `{name}`, for example 5, 20, "
            f"got {text!r}."
        ) from error

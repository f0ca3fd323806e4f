"""Several prompts for one class: who is dropped and when it ends, against slow loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from benchmarks.oracle import GaussianWorld, OracleDenoiser
from bigain_core.classification import (
    PLANS,
    AdaptiveTimes,
    Blocks,
    Budget,
    Certified,
    NoiseSchedule,
    Screening,
    Sequential,
    SpreadGrid,
    TrialPlan,
    alphas_cumprod,
    classify,
)
from bigain_core.classification.results.classes import by_class
from bigain_core.classification.trials.samplers import Progress, TrialSpec

SCHEDULE = NoiseSchedule.variance_preserving(alphas_cumprod("scaled-linear"))
LOOKS, CAPS = (3, 5, 8, 12), (12, 9, 7, 5)


class Table:
    """A denoiser whose weighted error is errors[k, t]^2 for prompt k at timestep t."""

    schedule = SCHEDULE

    def __init__(self, errors):
        self.errors, self.asked = errors.double(), 0

    def __call__(self, latent, trial, prompts):
        self.asked += len(prompts)
        level, off = trial.level, self.errors[list(prompts), trial.timestep]
        off = off.view(-1, *[1] * latent.ndim).expand(-1, *latent.shape)
        return latent.double() - level.noise / level.signal * off


def table(prompts, seed, spread=0.6):
    generator = torch.Generator().manual_seed(seed)
    offsets = spread * torch.rand(prompts, 1, generator=generator)
    return 1 + offsets + 0.3 * torch.rand(prompts, 1000, generator=generator)


def slow_tails(rows, leader, others, timesteps):
    """P(better than the leader), with variances moderated by the median of these alone."""
    n = len(timesteps)
    order = sorted(range(n), key=lambda s: timesteps[s])
    means, variances = {}, {}
    for k in others:
        d = [rows[k][s] - rows[leader][s] for s in order]
        means[k] = sum(d) / n
        ordinary = sum((x - means[k]) ** 2 for x in d) / (n - 1)
        steps = sum((b - a) ** 2 for a, b in zip(d, d[1:], strict=False)) / (2 * (n - 1))
        variances[k] = min(ordinary, steps) / n
    prior = sorted(variances.values())[(len(others) - 1) // 2] if others else 0
    tails = {}
    for k in others:
        variance = (8 * prior + (n - 1) * variances[k]) / (7 + n)
        tails[k] = student.sf(means[k] / math.sqrt(variance), 7 + n)
    return tails


def slow_trials(errors, classes, delta):
    """Numbers of trials of each prompt, by loops over looks, groups and prompts."""
    timesteps = SpreadGrid().timesteps((20,))
    rows = [[float(row[t]) ** 2 for t in timesteps] for row in errors]
    alive, trials = list(range(len(rows))), [0] * len(rows)
    for step, cap in zip(LOOKS, CAPS, strict=True):
        for k in alive:
            trials[k] = step
        mean = {k: sum(rows[k][:step]) / step for k in alive}
        leader = min(alive, key=lambda k: (mean[k], k))
        other_classes = [k for k in alive if classes[k] != classes[leader]]
        same_class = [k for k in alive if classes[k] == classes[leader] and k != leader]
        for group in (other_classes, same_class):
            tails, total = slow_tails(rows, leader, group, timesteps[:step]), 0.0
            for k in sorted(group, key=tails.get):
                total += tails[k]
                if total <= delta:
                    alive.remove(k)
        seen, place = {}, {}
        for k in sorted(alive, key=lambda k: (mean[k], k)):
            first = seen.setdefault(classes[k], k) == k
            place[k] = (not first, mean[k], k)
        alive = sorted(sorted(alive, key=place.get)[:cap])
        if len({classes[k] for k in alive}) == 1:
            break
    return trials, alive


@settings(max_examples=40)
@given(
    classes=st.lists(st.sampled_from("abcde"), min_size=1, max_size=14),
    seed=st.integers(0, 999),
    delta=st.sampled_from([0.02, 0.1, 0.4]),
)
def test_elimination_and_stopping_are_those_of_the_slow_loop(classes, seed, delta):
    errors = table(len(classes), seed)
    plan = TrialPlan(LOOKS, sampler=SpreadGrid(), rule=Capped(delta))
    labels = [str(k) for k in range(len(classes))]
    found = classify(Table(errors), torch.zeros(1, 1, 2, 2), labels, plan, classes=classes)
    ranking = found.rankings[0]
    trials, alive = slow_trials(errors, classes, delta)
    assert ranking.trials.tolist() == trials
    winner = min(alive, key=lambda k: (ranking.mean_errors[k].item(), k))
    folded = by_class(found, classes)
    assert folded.labels[folded.best[0]] == classes[winner]


class Capped(Sequential):
    """With caps that few prompts reach."""

    def caps(self, trials, prompts):
        return tuple(min(cap, prompts) for cap in CAPS)


WORLD = GaussianWorld.random(12, seed=1, shift=0.6, size=64)
IMAGES, _ = WORLD.images(4, seed=2)
LABELS = [f"class {k}" for k in range(12)]
CLASSES = ["abcdef"[k // 2] for k in range(12)]
SMALL_CERTIFIED = TrialPlan((12, 16, 20), sampler=Blocks(4), rule=Certified())


def oracle():
    return OracleDenoiser(WORLD, SCHEDULE)


def same(found, expected):
    for one, two in zip(found.rankings, expected.rankings, strict=True):
        assert one.specs == two.specs and one.tied == two.tied
        assert torch.equal(one.stage, two.stage)
        assert torch.equal(one.errors.isnan(), two.errors.isnan())
        assert torch.equal(one.errors.nan_to_num(), two.errors.nan_to_num())


@pytest.mark.parametrize("name", PLANS)
def test_a_class_for_every_prompt_changes_nothing(name):
    plan = SMALL_CERTIFIED if name == "certified" else PLANS[name]
    own = [f"name {k}" for k in range(12)]
    found = classify(oracle(), IMAGES, LABELS, plan, classes=own)
    same(found, classify(oracle(), IMAGES, LABELS, plan))
    assert by_class(found, LABELS) is found


def copies():
    """Prompts 0 and 1 are the best and all but equal, the others are far behind."""
    errors = table(6, 0) + 2
    errors[0] = 1 + 0.2 * torch.rand(1000, generator=torch.Generator().manual_seed(5))
    errors[1] = errors[0] + 1e-6 * torch.randn(1000, generator=torch.Generator().manual_seed(6))
    return errors


@pytest.mark.parametrize("name", ["fast", "balanced", "thorough", "sequential", "certified"])
def test_two_names_of_the_winner_do_not_drag_a_run_on(name):
    labels, classes = list("uvwxyz"), ["cat", "cat", "dog", "dog", "ant", "ant"]
    blind, knowing = Table(copies()), Table(copies())
    latent = torch.zeros(1, 1, 2, 2)
    classify(blind, latent, labels, PLANS[name])
    found = classify(knowing, latent, labels, PLANS[name], classes=classes)
    assert knowing.asked < blind.asked
    folded = by_class(found, classes)
    assert folded.labels[folded.best[0]] == "cat"
    assert folded.rankings[0].margin > 1 and folded.rankings[0].confidence > 0.95
    assert folded.warnings == []


def test_a_limit_of_screening_takes_the_best_of_each_class_first():
    errors = torch.arange(1, 7)[:, None] + torch.zeros(6, 1000)
    screening = Screening(Table(errors), trials=2, keep=3)
    run = (Table(errors), torch.zeros(1, 1, 2, 2), list("uvwxyz"), PLANS["balanced"])
    known = classify(*run, classes=list("aaabbc"), screening=screening).rankings[0]
    assert (known.trials > 0).nonzero()[:, 0].tolist() == [0, 3, 5]
    blind = classify(*run, screening=screening).rankings[0]
    assert (blind.trials > 0).nonzero()[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["paper [5, 20]", "paper [5, 20, 100]"])
def test_the_papers_lists_count_prompts_and_never_stop_early(name):
    """The class is that of the winning prompt, as in the published code."""
    latent, labels = torch.zeros(1, 1, 2, 2), list("uvwxyz")
    known = classify(Table(copies()), latent, labels, PLANS[name], classes=list("aabbcc"))
    same(known, classify(Table(copies()), latent, labels, PLANS[name]))


def test_ties_are_between_classes():
    errors = copies()[[0, 1, 0, 2]]
    plan = TrialPlan((5, 10, 20), sampler=SpreadGrid(), rule=Sequential(indifference=0.01))
    classes = ["cat", "cat", "kitten", "dog"]
    found = classify(Table(errors), torch.zeros(1, 1, 2, 2), list("abcd"), plan, classes=classes)
    folded = by_class(found, classes)
    (text,) = folded.warnings
    assert text.endswith("not told apart further: cat, kitten.")
    together = ["cat", "cat", "cat", "dog"]
    found = classify(Table(errors), torch.zeros(1, 1, 2, 2), list("abcd"), plan, classes=together)
    assert not found.rankings[0].tied and by_class(found, together).warnings == []


@pytest.mark.parametrize("screened", [False, True])
def test_budget_screening_and_going_on_work_with_classes(screened):
    screening = Screening(oracle(), trials=3, keep=7) if screened else None
    options = {"classes": CLASSES, "screening": screening}
    short = TrialPlan((4, 8), (6, 1), sampler=SpreadGrid())
    first = classify(oracle(), IMAGES, LABELS, short, **options)
    again = classify(oracle(), IMAGES, LABELS, PLANS["balanced"], previous=first, **options)
    same(again, classify(oracle(), IMAGES, LABELS, PLANS["balanced"], **options))
    plan = TrialPlan((4, 8), sampler=SpreadGrid(), rule=Sequential(), budget=Budget(calls=60))
    for ranking in classify(oracle(), IMAGES, LABELS, plan, **options).rankings:
        assert ranking.spent <= 60


def test_a_single_class_needs_the_first_look_only():
    found = classify(oracle(), IMAGES, LABELS, PLANS["balanced"], classes=["one"] * 12)
    assert all(ranking.errors.shape[1] == 3 for ranking in found.rankings)


def test_adaptive_times_ask_where_classes_differ():
    """Prompts beside the best one of each class do not count."""
    sampler, generator = AdaptiveTimes(), torch.Generator().manual_seed(3)
    specs = tuple(TrialSpec(125 * n + 60, n) for n in range(8))
    errors = torch.rand(4, 8, generator=generator, dtype=torch.float64)
    wanted = sampler.draw((20,), Progress(0, 0, specs, errors, [0, 1, 2, 3]))
    same_class = errors + 1 + 5 * torch.rand(4, 8, generator=generator, dtype=torch.float64)
    both = torch.stack([errors, same_class], 1).flatten(0, 1)
    found = sampler.draw((20,), Progress(0, 0, specs, both, [0, 0, 1, 1, 2, 2, 3, 3]))
    assert found == wanted
    assert sampler.draw((20,), Progress(0, 0, specs, both, range(8))) != wanted


def test_every_prompt_needs_a_class():
    with pytest.raises(ValueError, match="a class for each of 12 prompts, got 3"):
        classify(oracle(), IMAGES, LABELS, PLANS["balanced"], classes=["a", "b", "c"])

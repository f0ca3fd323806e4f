"""Several prompts for one class: who is dropped and when it ends, against slow loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.oracle import GaussianWorld, OracleDenoiser
from bigain_core.classification import (
    PLANS,
    AdaptiveTimes,
    Blocks,
    Budget,
    Certified,
    Sequential,
    SpreadGrid,
    TrialPlan,
    classify,
)
from bigain_core.classification.results.classes import by_class
from bigain_core.classification.results.summary import warnings
from bigain_core.classification.trials.samplers import Progress, TrialSpec
from tests.core.classifying import SCHEDULE, Tabled, classify_screened, same, slow_tails

LOOKS, CAPS = (3, 5, 8, 12), (12, 9, 7, 5)


def table(prompts, seed, spread=0.6):
    generator = torch.Generator().manual_seed(seed)
    offsets = spread * torch.rand(prompts, 1, generator=generator)
    return 1 + offsets + 0.3 * torch.rand(prompts, 1000, generator=generator)


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
    found = classify(Tabled(errors), torch.zeros(1, 1, 2, 2), labels, plan, classes=classes)
    ranking = found.rankings[0]
    trials, alive = slow_trials(errors, classes, delta)
    assert ranking.table.trials.tolist() == trials
    winner = min(alive, key=lambda k: (ranking.table.mean_errors[k].item(), k))
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
    blind, knowing = Tabled(copies()), Tabled(copies())
    latent = torch.zeros(1, 1, 2, 2)
    classify(blind, latent, labels, PLANS[name])
    found = classify(knowing, latent, labels, PLANS[name], classes=classes)
    assert knowing.asked < blind.asked
    folded = by_class(found, classes)
    assert folded.labels[folded.best[0]] == "cat"
    assert folded.rankings[0].margin > 1 and folded.rankings[0].confidence > 0.95
    assert warnings(folded) == []


def test_a_limit_of_screening_takes_the_best_of_each_class_first():
    errors = torch.arange(1, 7)[:, None] + torch.zeros(6, 1000)
    cheap = plain = Tabled(errors)
    run = (cheap, plain, torch.zeros(1, 1, 2, 2), list("uvwxyz"), PLANS["balanced"], 2, 3)
    for classes, left in ({"classes": list("aaabbc")}, [0, 3, 5]), ({}, [0, 1, 2]):
        found = classify_screened(*run, **classes).rankings[0]
        assert (found.table.trials > 0).nonzero()[:, 0].tolist() == left


@pytest.mark.parametrize("name", ["paper [5, 20]", "paper [5, 20, 100]"])
def test_the_papers_lists_count_prompts_and_never_stop_early(name):
    """The class is that of the winning prompt, as in the published code."""
    latent, labels = torch.zeros(1, 1, 2, 2), list("uvwxyz")
    known = classify(Tabled(copies()), latent, labels, PLANS[name], classes=list("aabbcc"))
    same(known, classify(Tabled(copies()), latent, labels, PLANS[name]))


@pytest.mark.parametrize("screened", [False, True])
def test_budget_screening_and_going_on_work_with_classes(screened):
    def run(plan, **previous):
        given = (oracle(), IMAGES, LABELS, plan)
        if not screened:
            return classify(*given, classes=CLASSES, **previous)
        return classify_screened(oracle(), *given, 3, 7, classes=CLASSES, **previous)

    first = run(TrialPlan((4, 8), (6, 1), sampler=SpreadGrid()))
    same(run(PLANS["balanced"], previous=first), run(PLANS["balanced"]))
    plan = TrialPlan((4, 8), sampler=SpreadGrid(), rule=Sequential(), budget=Budget(calls=60))
    assert all(ranking.spent <= 60 for ranking in run(plan).rankings)


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

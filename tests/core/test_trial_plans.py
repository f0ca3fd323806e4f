"""The adaptive plan: timesteps, kept prompts and the number of calls."""

from itertools import pairwise

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from bigain_core.classification import (
    PLANS,
    AdaptiveTimes,
    Blocks,
    PublishedGrid,
    SpreadGrid,
    TrialPlan,
    UniformTimes,
    trial_timesteps,
)
from bigain_core.classification.datasets.result_files import ResultFile
from bigain_core.classification.trials.samplers import Progress

FIVE = [125, 325, 525, 725, 925]


def slow_timesteps(trials):
    """Section by section as the published code picks them."""
    most = max(trials)
    delta = 1000 // most
    grid = [delta // 2 + number * delta for number in range(most)]
    stages, evaluated = [], set()
    for count in trials:
        every = most // count
        picked = [grid[every // 2 + i * every] for i in range(count)]
        stages.append([t for t in picked if t not in evaluated])
        evaluated.update(picked)
    return stages


def test_two_published_stages_are_nested():
    first, second = trial_timesteps((5, 20))
    assert first == FIVE
    assert second == [t for t in range(25, 1000, 50) if t not in FIVE]


def test_three_published_stages_visit_5_25_and_100_timesteps():
    first, second, third = trial_timesteps((5, 20, 100))
    assert first == [105, 305, 505, 705, 905]
    assert second == list(range(25, 1000, 50))
    assert third == [t for t in range(5, 1000, 10) if t not in {*first, *second}]
    assert (len(first), len(second), len(third)) == (5, 20, 75)


@pytest.mark.parametrize(
    ("trials", "timesteps"),
    [((1,), [500]), ((2,), [250, 750]), ((4,), [125, 375, 625, 875]), ((1000,), list(range(1000)))],
)
def test_one_stage_takes_the_middles_of_even_bins(trials, timesteps):
    assert trial_timesteps(trials) == [timesteps]


DIVISORS = [count for count in range(1, 1001) if 1000 % count == 0]
dividing = st.sampled_from(DIVISORS).flatmap(
    lambda most: st.sets(st.sampled_from([n for n in DIVISORS if most % n == 0]), max_size=3).map(
        lambda counts: tuple(sorted({*counts, most}))
    )
)


@given(dividing)
def test_lists_that_nest_follow_the_published_rule(trials):
    assert trial_timesteps(trials) == slow_timesteps(trials)


def largest_gap(times):
    """Between neighbours, or twice that to an end of the axis, in gaps of as many even times."""
    times = sorted(times)
    ends = 2 * (times[0] + 0.5), 2 * (999.5 - times[-1])
    return max(*ends, *(b - a for a, b in pairwise(times)), 0) * len(times) / 1000


def check_coverage(trials, bound):
    """A timestep is a whole number, which moves two neighbours apart by one at most."""
    visited = []
    for count, stage in zip(trials, trial_timesteps(trials), strict=True):
        visited += stage
        assert len(set(visited)) == len(visited) and 0 <= min(visited) and max(visited) < 1000
        if 1000 % trials[-1] or any(trials[-1] % n for n in trials):
            assert len(visited) == count
        assert largest_gap(visited) <= bound + len(visited) / 1000


@given(st.sets(st.integers(1, 1000), min_size=1, max_size=3).map(sorted).map(tuple))
@example((10, 15))
@example((600,))
@example((70, 71))
def test_the_first_trials_of_any_list_cover_the_whole_axis(trials):
    check_coverage(trials, 2)


@given(st.sets(st.integers(1, 1000), min_size=4, max_size=30).map(sorted).map(tuple))
def test_many_stages_cover_the_axis_too(trials):
    check_coverage(trials, 4)


@given(st.integers(1, 1000))
def test_one_stage_and_the_last_of_others_are_even(count):
    even = [int((rank + 0.5) * 1000 / count + 1e-9) for rank in range(count)]
    assert trial_timesteps((count,)) == [even]
    if count > 3:
        assert sorted(sum(trial_timesteps((3, count)), [])) == even


def test_the_first_stage_is_as_even_as_the_last_one_allows():
    first, second = trial_timesteps((10, 15))
    even = range(50, 1000, 100)
    assert max(abs(a - b) for a, b in zip(first, even, strict=True)) <= 1000 / 15 / 2
    assert len(second) == 5


@pytest.mark.parametrize("plan", PLANS)
def test_no_preset_visits_a_noise_or_a_timestep_of_a_noise_twice(plan):
    """Whatever the errors are: trials are independent only if their noise is."""
    check_noise(PLANS[plan])


@given(
    trials=st.sets(st.integers(1, 100), min_size=1, max_size=4).map(sorted).map(tuple),
    sampler=st.sampled_from(
        [PublishedGrid(), SpreadGrid(), UniformTimes(), Blocks(), AdaptiveTimes()]
        + [AdaptiveTimes(from_grid=count) for count in (1, 2, 5, 20)]
    ),
    seed=st.integers(0, 3),
)
def test_no_plan_visits_a_noise_twice(trials, sampler, seed):
    check_noise(TrialPlan(trials, (1,) * len(trials), sampler=sampler), seed)


def check_noise(plan, seed=0):
    generator = torch.Generator().manual_seed(seed)
    specs, count = [], plan.elimination_steps[-1]
    errors = torch.rand(3, count, generator=generator, dtype=torch.float64)
    for number in range(count):
        progress = Progress(seed, 0, tuple(specs), errors[:, :number], range(3))
        specs.append(plan.sampler.draw(plan.trials, progress))
    assert len({spec.noise for spec in specs}) == count
    assert len({(spec.timestep, spec.noise) for spec in specs}) == count
    assert {spec.timestep for spec in specs} <= set(plan.timesteps)


@pytest.mark.parametrize("plan", ["fast", "balanced", "thorough"])
def test_results_of_trials_that_shared_a_noise_are_not_gone_on_with(tmp_path, plan):
    """A file keeps its plan as text; in such a file the trials of the grid were named otherwise."""
    now = {"plan": repr(PLANS[plan])}
    then = {"plan": now["plan"].replace("leaders=5, from_grid=", "leaders=5, first=")}
    with ResultFile(tmp_path / plan, then):
        pass
    with pytest.raises(ValueError, match=f"expected {plan} to hold results of the same plan"):
        ResultFile(tmp_path / plan, now)


@pytest.mark.parametrize(
    ("trials", "prompts", "kept"),
    [
        ((20,), 37, (1,)),
        ((5, 20), 37, (5, 1)),
        ((5, 20), 3, (3, 1)),
        ((5, 20), 1, (1, 1)),
        ((5, 20, 100), 1000, (50, 10, 1)),
        ((5, 20, 100), 30, (30, 10, 1)),
    ],
)
def test_published_lists_are_bounded_by_the_prompts(trials, prompts, kept):
    assert TrialPlan(trials).kept(prompts) == kept


@pytest.mark.parametrize(
    ("plan", "prompts", "calls"),
    [
        (TrialPlan((5, 20)), 37, 37 * 5 + 5 * 15),
        (TrialPlan((5, 20, 100)), 1000, 1000 * 5 + 50 * 20 + 10 * 75),
        (TrialPlan((10,)), 3, 30),
        (TrialPlan((5, 20), (2, 1)), 4, 4 * 5 + 2 * 15),
        (TrialPlan((5, 20)), 1, 20),
    ],
)
def test_calls_are_counted_over_the_survivors_of_each_stage(plan, prompts, calls):
    assert plan.calls(prompts) == calls


BAD_TRIALS = (), (0, 5), (20, 5), (5, 5), (5, 1001), (-1,)
BAD_LISTS = (), (1,), (5, 2), (1, 5), (5, 3, 1), (3, 0), (5, 1, 1)


@pytest.mark.parametrize(
    ("settings", "prompts", "message"),
    [
        *(
            ({"trials": trials}, None, f"expected ascending numbers of trials.*got {list(trials)}")
            for trials in BAD_TRIALS
        ),
        ({"loss": "mse"}, None, "expected a loss of .*'l2'.* got 'mse'"),
        ({"seed": -1}, None, "expected a seed of at least 0, got -1"),
        *(
            ({"keep": keep}, 10, f"expected 2 descending numbers of kept.*got {list(keep)}")
            for keep in BAD_LISTS
        ),
        ({"keep": (4, 1)}, 3, "at most the 3 prompts that are present, got 4"),
        ({"trials": (1, 2, 4, 8)}, 10, "one number per stage, for 4 stages"),
    ],
)
def test_plans_that_cannot_be_are_refused(settings, prompts, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        TrialPlan(**settings).kept(prompts)


def test_a_list_keeps_as_many_as_it_says():
    assert TrialPlan((5, 20), (4, 1)).kept(4) == (4, 1)
    assert TrialPlan((1, 2, 4, 8), (9, 4, 2, 1)).kept(10) == (9, 4, 2, 1)

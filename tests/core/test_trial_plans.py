"""The adaptive plan: timesteps, kept prompts and the number of calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.classification import TrialPlan, trial_timesteps

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


@given(st.sets(st.integers(1, 1000), min_size=1, max_size=4).map(sorted).map(tuple))
def test_timesteps_follow_the_published_rule(trials):
    stages = trial_timesteps(trials)
    assert stages == slow_timesteps(trials)
    visited = [t for stage in stages for t in stage]
    assert len(set(visited)) == len(visited)
    assert 0 <= min(visited) and max(visited) < 1000


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

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


@pytest.mark.parametrize("trials", [(), (0, 5), (20, 5), (5, 5), (5, 1001), (-1,)])
def test_trials_must_ascend_between_1_and_1000(trials):
    with pytest.raises(ValueError, match="expected ascending numbers of trials") as error:
        TrialPlan(trials)
    assert f"got {list(trials)}" in str(error.value)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="expected a loss of .*'l2'.* got 'mse'"):
        TrialPlan(loss="mse")


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="expected a seed of at least 0, got -1"):
        TrialPlan(seed=-1)


@pytest.mark.parametrize("keep", [(), (1,), (5, 2), (1, 5), (5, 3, 1), (3, 0), (5, 1, 1)])
def test_kept_prompts_must_descend_to_1_once_per_stage(keep):
    with pytest.raises(ValueError, match="expected 2 descending numbers of kept") as error:
        TrialPlan((5, 20), keep).kept(10)
    assert f"got {list(keep)}" in str(error.value)


def test_no_more_prompts_can_be_kept_than_there_are():
    assert TrialPlan((5, 20), (4, 1)).kept(4) == (4, 1)
    with pytest.raises(ValueError, match="at most the 3 prompts that are present, got 4"):
        TrialPlan((5, 20), (4, 1)).kept(3)


def test_more_than_three_stages_need_a_list():
    with pytest.raises(ValueError, match="one number per stage, for 4 stages"):
        TrialPlan((1, 2, 4, 8)).kept(10)
    assert TrialPlan((1, 2, 4, 8), (9, 4, 2, 1)).kept(10) == (9, 4, 2, 1)

"""The two operators: what they decide for a layer."""

import numpy as np
import pytest
import torch

from bigain_core.grid import TokenGrid
from bigain_core.methods import KVDownsampling, TokenMerging
from bigain_core.plans import PoolPlan
from bigain_core.schedules import AlphaSchedule, Moment

MIDDLE = Moment(0.5)


def destinations(plan):
    """The destinations of a plan at full ratio, where every source has merged."""
    return plan.kept.tolist()


def random_destinations(seed=0, site=0, timestep=500, batch=1):
    method = TokenMerging(1.0, "random", seed=seed)
    metric = torch.randn(batch, 256, 4, generator=torch.Generator().manual_seed(0))
    return destinations(method.plan(metric, TokenGrid(16, 16), Moment.at_timestep(timestep), site))


def slow_scores(metric, height, width):
    """Mean absolute Laplacian with zeros outside."""
    image = np.pad(metric.double().numpy().reshape(height, width, -1), ((1, 1), (1, 1), (0, 0)))
    near = image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:]
    return np.abs(near - 4 * image[1:-1, 1:-1]).mean(-1)


def test_l_gtm_keeps_the_smoothest_token_of_each_cell(randn):
    metric = randn(3, 48, 8)
    plan = TokenMerging(1.0).plan(metric, TokenGrid(6, 8), MIDDLE, site=0)
    for sample in range(3):
        scores = slow_scores(metric[sample], 6, 8)
        expected = []
        for top in range(0, 6, 2):
            for left in range(0, 8, 2):
                cell = scores[top : top + 2, left : left + 2]
                dy, dx = np.unravel_index(cell.argmin(), cell.shape)
                expected.append((top + dy) * 8 + left + dx)
        assert destinations(plan)[sample] == sorted(expected)


@pytest.mark.parametrize("option", [{"padding": "replicate"}, {"scorer": "laplacian-l2"}])
def test_scorer_and_padding_matter(randn, option):
    metric, grid = randn(1, 400, 8), TokenGrid(20, 20)
    default = TokenMerging(1.0).plan(metric, grid, MIDDLE, 0)
    other = TokenMerging(1.0, **option).plan(metric, grid, MIDDLE, 0)
    assert destinations(default) != destinations(other)


@pytest.mark.parametrize(("cell", "left"), [(1, 144), (2, 36), (3, 16)])
def test_merging_saturates_at_one_token_per_cell(randn, cell, left):
    plan = TokenMerging(1.0, cell=cell).plan(randn(1, 144, 4), TokenGrid(12, 12), MIDDLE, 0)
    assert plan.query_tokens == plan.context_tokens == left


@pytest.mark.parametrize("rule", ["lowest", "top-left", "random"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.7, 0.75])
def test_every_rule_removes_the_same_number_of_tokens(randn, rule, ratio):
    plan = TokenMerging(ratio, rule).plan(randn(2, 400, 4), TokenGrid(20, 20), MIDDLE, 0)
    assert plan.query_tokens == 400 - int(400 * ratio)


@pytest.mark.parametrize("rule", ["lowest", "top-left", "random"])
def test_ratio_0_hands_back_the_tokens_themselves(randn, rule):
    x = randn(2, 16, 4)
    plan = TokenMerging(0.0, rule).plan(x, TokenGrid(4, 4), MIDDLE, 0)
    assert plan.queries(x) is x and plan.context(x) is x and plan.restore(x) is x


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_random_destinations_are_the_same_for_any_batch(batch):
    assert random_destinations(batch=batch) == random_destinations() * batch


def test_random_destinations_repeat_for_the_same_seed_layer_and_timestep():
    assert random_destinations(7, 3, 125) == random_destinations(7, 3, 125)


@pytest.mark.parametrize("other", [{"seed": 1}, {"site": 1}, {"timestep": 501}])
def test_random_destinations_differ_by_seed_layer_and_timestep(other):
    assert random_destinations() != random_destinations(**other)


@pytest.mark.parametrize("rule", ["lowest", "top-left", "random"])
def test_planning_leaves_the_global_random_state_alone(randn, rule):
    metric = randn(1, 16, 4)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    TokenMerging(0.5, rule).plan(metric, TokenGrid(4, 4), MIDDLE, 0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])
    assert np.random.get_state()[2] == numpy_state[2]


@pytest.mark.parametrize(("timestep", "alpha"), [(999, 0.8), (499.5, 1.0), (0, 1.2)])
def test_downsampling_follows_its_schedule(randn, timestep, alpha):
    x, grid = randn(1, 24, 4), TokenGrid(4, 6)
    method = KVDownsampling(2, AlphaSchedule(0.8, 1.2))
    plan = method.plan(x, grid, Moment.at_timestep(timestep), site=0)
    expected = PoolPlan(grid, 2, alpha)
    torch.testing.assert_close(plan.context(x), expected.context(x))
    assert plan.queries(x) is x and plan.context_tokens == 6


@pytest.mark.parametrize(
    ("method", "is_identity"),
    [
        (TokenMerging(0), True),
        (TokenMerging(0, "random"), True),
        (TokenMerging(0.1), False),
        (KVDownsampling(1), True),
        (KVDownsampling(2), False),
    ],
)
def test_methods_that_change_nothing_say_so(method, is_identity):
    assert method.is_identity is is_identity


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (TokenMerging(0.7), "L-GTM 0.7"),
        (TokenMerging(0.5, "random"), "ToMe 0.5"),
        (TokenMerging(0.5, "top-left"), "ToMe (top-left) 0.5"),
        (KVDownsampling(), "IE-KVD factor 2, alpha 0.9"),
        (KVDownsampling(4, AlphaSchedule(0.8, 1.2)), "IE-KVD factor 4, alpha 0.8 to 1.2"),
    ],
)
def test_names_tell_method_and_settings(method, name):
    assert method.name == name


@pytest.mark.parametrize("ratio", [-0.01, 1.2, float("nan")])
def test_a_bad_ratio_is_refused(ratio):
    with pytest.raises(ValueError, match=f"BiGain: expected a merge ratio between 0 .*got {ratio}"):
        TokenMerging(ratio)


@pytest.mark.parametrize("factor", [0, -2])
def test_a_bad_factor_is_refused(factor):
    with pytest.raises(ValueError, match=f"BiGain: expected a downsampling factor.*got {factor}"):
        KVDownsampling(factor)

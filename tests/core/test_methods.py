"""Token merging and pooling: what they decide for a layer. And what every method says of itself."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from bigain_core.methods import (
    BlockMerging,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Protection,
    Sharing,
    SimilarityPruning,
    TokenMerging,
)
from bigain_core.schedules import AlphaCurve, AlphaSchedule, DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import DESTINATION_RULES
from bigain_core.tokens.plans import MERGE_MODES, PoolPlan

MIDDLE = DenoisingProgress(0.5)


def destinations(plan):
    """The destinations of a plan at full ratio, where every source has merged."""
    return plan.kept.tolist()


def random_destinations(seed=0, layer_number=0, timestep=500, batch=1):
    method = TokenMerging(1.0, "random", seed=seed)
    metric = torch.randn(batch, 256, 4, generator=torch.Generator().manual_seed(0))
    return destinations(
        method.plan(
            metric, TokenGrid(16, 16), DenoisingProgress.at_timestep(timestep), layer_number
        )
    )


def slow_scores(metric, height, width):
    """Mean absolute Laplacian with zeros outside."""
    image = np.pad(metric.double().numpy().reshape(height, width, -1), ((1, 1), (1, 1), (0, 0)))
    near = image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:]
    return np.abs(near - 4 * image[1:-1, 1:-1]).mean(-1)


def test_l_gtm_keeps_the_smoothest_token_of_each_cell(randn):
    metric = randn(3, 48, 8)
    plan = TokenMerging(1.0).plan(metric, TokenGrid(6, 8), MIDDLE, layer_number=0)
    for sample in range(3):
        scores = slow_scores(metric[sample], 6, 8)
        expected = []
        for top in range(0, 6, 2):
            for left in range(0, 8, 2):
                cell = scores[top : top + 2, left : left + 2]
                dy, dx = np.unravel_index(cell.argmin(), cell.shape)
                expected.append((top + dy) * 8 + left + dx)
        assert destinations(plan)[sample] == sorted(expected)


def test_the_published_rule_reads_strips_of_the_same_scores(randn):
    metric = randn(2, 63, 8)
    plan = TokenMerging(1.0, "published").plan(metric, TokenGrid(7, 9), MIDDLE, layer_number=0)
    for sample in range(2):
        scores = slow_scores(metric[sample], 7, 9)
        expected = []
        for top in range(0, 6, 2):
            band = scores[top : top + 2, :8].flatten()
            for column in range(4):
                dy, dx = divmod(int(band[4 * column : 4 * column + 4].argmin()), 2)
                expected.append((top + dy) * 9 + 2 * column + dx)
        assert destinations(plan)[sample] == sorted(expected)


@pytest.mark.parametrize("mode", MERGE_MODES)
def test_merged_tokens_become_what_the_mode_says(randn, mode):
    x = randn(1, 48, 8)
    plan = TokenMerging(0.6, mode=mode).plan(x, TokenGrid(6, 8), MIDDLE, 0)
    merged = plan.queries(x)[0].double()
    for row, token in enumerate(plan.kept[0].tolist()):
        group = x[0, plan.target[0] == token].double()
        expected = group.mean(0)
        if mode == "mlerp":
            expected = expected / expected.norm() * group.norm(dim=1).max()
        elif mode == "prune":
            expected = x[0, token].double()
        torch.testing.assert_close(merged[row], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", [TokenMerging(0.5), BlockMerging(0.5)])
def test_only_a_proportional_method_weighs_its_keys(randn, method):
    x, grid = randn(2, 48, 8), TokenGrid(6, 8)
    assert method.plan(x, grid, MIDDLE, 0).key_bias is None
    proportional = type(method)(0.5, proportional=True).plan(x, grid, MIDDLE, 0)
    for sample, bias in enumerate(proportional.key_bias):
        sizes = torch.bincount(proportional.target[sample], minlength=48)
        torch.testing.assert_close(bias.exp(), sizes[sizes > 0].float())


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


@pytest.mark.parametrize("rule", DESTINATION_RULES)
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.7, 0.75])
def test_every_rule_removes_the_same_number_of_tokens(randn, rule, ratio):
    plan = TokenMerging(ratio, rule).plan(randn(2, 400, 4), TokenGrid(20, 20), MIDDLE, 0)
    assert plan.query_tokens == 400 - int(400 * ratio)


@pytest.mark.parametrize("rule", DESTINATION_RULES)
def test_ratio_0_hands_back_the_tokens_themselves(randn, rule):
    x = randn(2, 16, 4)
    plan = TokenMerging(0.0, rule).plan(x, TokenGrid(4, 4), MIDDLE, 0)
    assert plan.queries(x) is x and plan.context(x) is x and plan.restore(x) is x


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_random_destinations_are_the_same_for_any_batch(batch):
    assert random_destinations(batch=batch) == random_destinations() * batch


def test_random_destinations_repeat_for_the_same_seed_layer_and_timestep():
    assert random_destinations(7, 3, 125) == random_destinations(7, 3, 125)


@pytest.mark.parametrize("other", [{"seed": 1}, {"layer_number": 1}, {"timestep": 501}])
def test_random_destinations_differ_by_seed_layer_and_timestep(other):
    assert random_destinations() != random_destinations(**other)


@pytest.mark.parametrize("rule", DESTINATION_RULES)
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
    plan = method.plan(x, grid, DenoisingProgress.at_timestep(timestep), layer_number=0)
    expected = PoolPlan(grid, 2, alpha)
    torch.testing.assert_close(plan.context(x), expected.context(x))
    assert plan.queries(x) is x and plan.context_tokens == 6


def test_downsampling_follows_a_curve(randn):
    x, grid = randn(1, 24, 4), TokenGrid(4, 6)
    method = KVDownsampling(2, AlphaCurve(((999, 0.0), (500, 1.0), (0, 0.5))))
    for timestep, alpha in [(999, 0.0), (749.5, 0.5), (500, 1.0), (250, 0.75), (0, 0.5)]:
        plan = method.plan(x, grid, DenoisingProgress.at_timestep(timestep), layer_number=0)
        expected = PoolPlan(grid, 2, alpha).context(x)
        torch.testing.assert_close(plan.context(x), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("height", "width", "factor"), [(8, 8, 2), (9, 7, 2), (8, 12, 4)])
def test_ie_kvd_at_alpha_1_is_todo(randn, height, width, factor):
    """ToDo samples keys and values as nearest-exact interpolation does."""
    x = randn(2, height * width, 4)
    method = KVDownsampling(factor, AlphaSchedule(1.0, 1.0))
    context = method.plan(x, TokenGrid(height, width), MIDDLE, 0).context(x)
    image = x.unflatten(1, (height, width)).movedim(-1, 1)
    size = (height // factor, width // factor)
    expected = functional.interpolate(image, size=size, mode="nearest-exact")
    assert torch.equal(context, expected.flatten(2).mT)


@pytest.mark.parametrize(
    ("method", "is_identity"),
    [
        (TokenMerging(0), True),
        (TokenMerging(0, "random"), True),
        (TokenMerging(0.1), False),
        (KVDownsampling(1), True),
        (KVDownsampling(2), False),
        (BlockMerging(0), True),
        (BlockMerging(0.1), False),
        (SimilarityPruning(0), True),
        (SimilarityPruning(0.1), False),
        (KVSelection(ratio=0), True),
        (KVSelection(ratio=0.1), False),
        (KVCellSelection(factor=1), True),
        (KVCellSelection(factor=2), False),
    ],
)
def test_methods_that_change_nothing_say_so(randn, method, is_identity):
    assert method.is_identity is is_identity
    x = randn(1, 64, 4)
    plan = method.plan(x, TokenGrid(8, 8), MIDDLE, 0)
    assert (plan.query_tokens == plan.context_tokens == 64) is is_identity
    if is_identity:
        assert torch.equal(plan.queries(x), x) and torch.equal(plan.context(x), x)
        assert torch.equal(plan.restore(x), x)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (TokenMerging(0.7), "L-GTM 0.7"),
        (TokenMerging(0.5, "random"), "ToMe 0.5"),
        (TokenMerging(0.5, "top-left"), "ToMe (top-left) 0.5"),
        (KVDownsampling(), "IE-KVD factor 2, alpha 0.9"),
        (KVDownsampling(4, AlphaSchedule(0.8, 1.2)), "IE-KVD factor 4, alpha 0.8 to 1.2"),
        (
            KVDownsampling(2, AlphaCurve.from_text("999: 0.8, 0: 1")),
            "IE-KVD factor 2, alpha curve of 2 points",
        ),
        (TokenMerging(0.7, "published"), "L-GTM (published rule) 0.7"),
        (TokenMerging(0.7, sharing=Sharing()), "L-GTM 0.7, assignment cached per stage"),
        (
            TokenMerging(0.25, "random", sharing=Sharing("interval", 3)),
            "ToMe 0.25, assignment cached per interval",
        ),
        (BlockMerging(), "adaptive block merge 0.7 by max"),
        (BlockMerging(0.5, "std"), "adaptive block merge 0.5 by std"),
        (SimilarityPruning(), "SiTo 0.7"),
        (KVSelection(), "KV selection high 0.75"),
        (KVSelection("uniform", 0.5), "KV selection uniform 0.5"),
        (KVCellSelection(), "KV selection high per cell of 2, blend 0.5"),
        (KVCellSelection("median", 4, 1.0), "KV selection median per cell of 4, blend 1"),
    ],
)
def test_names_tell_method_and_settings(method, name):
    assert method.name == name


@pytest.mark.parametrize("ratio", [-0.01, 1.2, float("nan")])
@pytest.mark.parametrize("method", [TokenMerging, BlockMerging, SimilarityPruning])
def test_a_bad_ratio_is_refused(method, ratio):
    with pytest.raises(ValueError, match=f"BiGain: expected a merge ratio between 0 .*got {ratio}"):
        method(ratio)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (TokenMerging(0.5, "smoothest"), "a destination rule of .*got 'smoothest'"),
        (TokenMerging(0.5, scorer="entropy"), "a scorer of .*got 'entropy'"),
        (TokenMerging(0.5, padding="reflect"), "a padding of .*'reflect'"),
        (TokenMerging(0.5, protection=Protection(0.1, "top")), "a selection mode of .*got 'top'"),
        (TokenMerging(0.5, mode="max"), "a merge mode of .*got 'max'"),
        (BlockMerging(0.5, "median"), "an aggregate of .*got 'median'"),
        (BlockMerging(0.5, mode="max"), "a merge mode of .*got 'max'"),
    ],
)
def test_an_unknown_setting_is_refused_when_used(randn, method, message):
    x = randn(1, 64, 4)
    with pytest.raises(ValueError, match=f"BiGain: expected .*{message}"):
        method.plan(x, TokenGrid(8, 8), MIDDLE, 0).queries(x)


@pytest.mark.parametrize("factor", [0, -2])
def test_a_bad_factor_is_refused(factor):
    with pytest.raises(ValueError, match=f"BiGain: expected a downsampling factor.*got {factor}"):
        KVDownsampling(factor)

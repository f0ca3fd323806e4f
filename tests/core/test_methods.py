"""Token merging and pooling: what they decide for a layer. And what every method says of itself."""

from dataclasses import replace

import pytest
import torch

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
from tests.core.calls import MIDDLE
from tests.core.loops import merged_group, slow_lowest, slow_published, slow_scores


def destinations(plan):
    """The destinations of a plan at full ratio, where every source has merged."""
    return plan.kept.tolist()


def random_destinations(seed=0, layer_number=0, timestep=500, batch=1):
    method = TokenMerging(1.0, "random", seed=seed)
    metric = torch.randn(batch, 256, 4, generator=torch.Generator().manual_seed(0))
    return destinations(
        method.plan(metric, TokenGrid(16, 16), DenoisingProgress(1 - timestep / 999), layer_number)
    )


@pytest.mark.parametrize(
    ("rule", "chosen"), [("lowest", slow_lowest), ("published", slow_published)]
)
@pytest.mark.parametrize(("height", "width"), [(6, 8), (7, 9)])
def test_l_gtm_keeps_the_smoothest_token_of_each_cell(randn, height, width, rule, chosen):
    metric = randn(3, height * width, 8)
    plan = TokenMerging(1.0, rule).plan(metric, TokenGrid(height, width), MIDDLE, 0)
    for sample, found in enumerate(destinations(plan)):
        scores = slow_scores(metric[sample], height, width)
        assert found == sorted(chosen(scores, height, width, 2))


@pytest.mark.parametrize(
    ("method", "mode"),
    [
        *(
            (method(0.5, mode=mode), mode)
            for method in (TokenMerging, BlockMerging)
            for mode in MERGE_MODES
        ),
        (SimilarityPruning(0.5), "prune"),
    ],
)
def test_merged_tokens_become_what_the_mode_says(randn, method, mode):
    x = randn(2, 63, 8)
    plan = method.plan(x, TokenGrid(7, 9), MIDDLE, 0)
    merged = plan.queries(x)
    assert torch.equal(merged, plan.context(x))
    for sample, target in enumerate(plan.target):
        for row, token in enumerate(plan.kept[sample].tolist()):
            members = (target == token).nonzero().flatten().tolist()
            expected = merged_group(x[sample, sorted(members, key=lambda n: n != token)], mode)
            torch.testing.assert_close(merged[sample, row].double(), expected, atol=1e-5, rtol=1e-5)
            if len(members) == 1 or mode == "prune":
                assert torch.equal(merged[sample, row], x[sample, token])


@pytest.mark.parametrize("method", [TokenMerging(0.5), BlockMerging(0.5)])
def test_only_a_proportional_method_weighs_its_keys(randn, method):
    x, grid = randn(2, 48, 8), TokenGrid(6, 8)
    assert method.plan(x, grid, MIDDLE, 0).key_bias is None
    proportional = type(method)(0.5, proportional=True).plan(x, grid, MIDDLE, 0)
    for sample, bias in enumerate(proportional.key_bias):
        sizes = torch.bincount(proportional.target[sample], minlength=48)
        torch.testing.assert_close(bias.exp(), sizes[sizes > 0].float())


@pytest.mark.parametrize(("cell", "left"), [(1, 144), (2, 36), (3, 16)])
def test_merging_saturates_at_one_token_per_cell(randn, cell, left):
    plan = TokenMerging(1.0, cell=cell).plan(randn(1, 144, 4), TokenGrid(12, 12), MIDDLE, 0)
    assert plan.query_tokens == plan.context_tokens == left


@pytest.mark.parametrize("other", [{"seed": 1}, {"layer_number": 1}, {"timestep": 501}])
def test_random_destinations_differ_by_seed_layer_and_timestep(other):
    assert random_destinations() != random_destinations(**other)


@pytest.mark.parametrize(
    ("schedule", "alphas"),
    [
        (AlphaSchedule(0.8, 1.2), {999: 0.8, 499.5: 1.0, 0: 1.2}),
        (
            AlphaCurve(((999, 0.0), (500, 1.0), (0, 0.5))),
            {999: 0.0, 749.5: 0.5, 500: 1.0, 250: 0.75, 0: 0.5},
        ),
    ],
)
def test_downsampling_follows_its_schedule(randn, schedule, alphas):
    x, grid = randn(1, 24, 4), TokenGrid(4, 6)
    for timestep, alpha in alphas.items():
        progress = DenoisingProgress(1 - timestep / 999)
        plan = KVDownsampling(2, schedule).plan(x, grid, progress, layer_number=0)
        expected = PoolPlan(grid, 2, alpha).context(x)
        torch.testing.assert_close(plan.context(x), expected, atol=1e-6, rtol=1e-6)
        assert plan.queries(x) is x and plan.context_tokens == 6


IDENTITIES = [
    *(TokenMerging(0, rule) for rule in DESTINATION_RULES), KVDownsampling(1), BlockMerging(0),
    SimilarityPruning(0), KVSelection(ratio=0), KVCellSelection(factor=1),
]  # fmt: skip
SLIGHT = [
    method(ratio=0.1) for method in (TokenMerging, BlockMerging, SimilarityPruning, KVSelection)
]
SLIGHT += [KVDownsampling(2), KVCellSelection(factor=2)]


@pytest.mark.parametrize("method", [*IDENTITIES, *SLIGHT])
def test_methods_that_change_nothing_say_so(randn, method):
    assert method.is_identity is (method in IDENTITIES)
    x = randn(1, 64, 4)
    plan = method.plan(x, TokenGrid(8, 8), MIDDLE, 0)
    assert (plan.query_tokens == plan.context_tokens == 64) is method.is_identity
    if method.is_identity:
        assert plan.queries(x) is x and plan.restore(x) is x
        assert torch.equal(plan.context(x), x)


METRIC = {"padding": "replicate"}, {"scorer": "variance"}
OPTIONS = {
    TokenMerging(1.0): METRIC, BlockMerging(0.4): (*METRIC, {"cell": 3}, {"aggregate": "std"}),
    KVSelection("high"): METRIC, KVCellSelection("high", 2, 1.0): METRIC,
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "option"), [(method, option) for method in OPTIONS for option in OPTIONS[method]]
)
def test_scorer_padding_cell_and_aggregate_matter(randn, method, option):
    x, grid = randn(1, 400, 8), TokenGrid(20, 20)
    changed = replace(method, **option)
    assert not torch.equal(*(m.plan(x, grid, MIDDLE, 0).context(x) for m in (method, changed)))


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (TokenMerging(0.7), "L-GTM 0.7"),
        (TokenMerging(0.5, "random"), "ToMe 0.5"),
        (TokenMerging(0.5, "top-left"), "ToMe (top-left) 0.5"),
        (KVDownsampling(), "IE-KVD factor 2, alpha 0.9"),
        (KVDownsampling(2, AlphaSchedule(1.0, 1.0)), "IE-KVD factor 2, alpha 1"),
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


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (TokenMerging(0.5, "smoothest"), "a destination rule of .*got 'smoothest'"),
        (TokenMerging(0.5, scorer="entropy"), "a scorer of .*got 'entropy'"),
        (TokenMerging(0.5, padding="reflect"), "a padding of .*'reflect'"),
        (TokenMerging(0.5, protection=Protection(0.1, "top")), "a selection mode of .*got 'top'"),
        (TokenMerging(0.5, mode="max"), "a merge mode of .*'mean'.*got 'max'"),
        (BlockMerging(0.5, "median"), "an aggregate of .*'std'.*got 'median'"),
        (BlockMerging(0.5, mode="max"), "a merge mode of .*got 'max'"),
        (KVSelection("median"), "a selection mode of .*got 'median'"),
        (KVCellSelection("medium"), "a selection mode of .*got 'medium'"),
    ],
)
def test_an_unknown_setting_is_refused_when_used(randn, method, message):
    x = randn(1, 64, 4)
    with pytest.raises(ValueError, match=f"BiGain: expected .*{message}"):
        method.plan(x, TokenGrid(8, 8), MIDDLE, 0).queries(x)


NAN = float("nan")
MERGE_RATIO = (TokenMerging, BlockMerging, SimilarityPruning), "a merge ratio between 0 "
KEY_RATIO = (KVSelection,), "a ratio of at least 0 .* and below 1, "


@pytest.mark.parametrize(
    ("methods", "expected", "setting", "value"),
    [
        *((*MERGE_RATIO, "ratio", ratio) for ratio in (-0.01, 1.2, NAN)),
        *((*KEY_RATIO, "ratio", ratio) for ratio in (-0.01, 1.0, 1.2, NAN)),
        *(
            ((KVDownsampling, KVCellSelection), "a downsampling factor", "factor", f)
            for f in (0, -2)
        ),
    ],
)
def test_a_bad_ratio_or_factor_is_refused(methods, expected, setting, value):
    for method in methods:
        with pytest.raises(ValueError, match=f"BiGain: expected {expected}.*got {value}"):
            method(**{setting: value})

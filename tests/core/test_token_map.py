"""Maps of tokens against plans made by hand and slow loops."""

import pytest
import torch

from bigain_core.compression.decisions import Decision
from bigain_core.compression.rules import Rule
from bigain_core.compression.token_map import (
    LEAST_SIDE,
    TokenMap,
    stand_ins,
    token_images,
    token_map,
    token_masks,
)
from bigain_core.methods import (
    BlockMerging,
    KeyMerging,
    KeyPairs,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Sharing,
    TokenMerging,
)
from bigain_core.placement import LayerId
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.plans import MergePlan, PoolPlan
from tests.core.calls import network_call
from tests.core.loops import pooled_windows

GRID = TokenGrid(4, 6)
MIDDLE = DenoisingProgress(1 - 500 / 999)
LAYER = LayerId(3, "encoder", 1)


def decided(method, metric, grid=GRID):
    plan = method.plan(metric, grid, MIDDLE, LAYER.number)
    return Decision(LAYER, Rule(method), metric, grid, plan)


def made(stand_in, grid=GRID, merges=True, scores=None):
    return TokenMap(LAYER, "by hand", grid, torch.tensor(stand_in), merges, scores)


@pytest.mark.parametrize("method", [TokenMerging(0.5), KeyMerging(0.5), KeyPairs(0.5)])
def test_a_merged_token_is_stood_for_by_the_one_it_merged_into(randn, method):
    plan = method.plan(randn(2, 24, 8), GRID, MIDDLE, 0)
    assert torch.equal(stand_ins(plan, GRID, 2), plan.target)


@pytest.mark.parametrize("grid", [TokenGrid(4, 6), TokenGrid(5, 7), TokenGrid(1, 5)])
@pytest.mark.parametrize("factor", [2, 3])
def test_a_pooled_window_is_stood_for_by_its_nearest_sample(grid, factor):
    found = stand_ins(PoolPlan(grid, factor, 0.9), grid, 2)
    expected = [-1] * grid.tokens
    for window, nearest in pooled_windows(grid.height, grid.width, factor):
        for token in {*window, nearest}:
            expected[token] = nearest
    assert found.tolist() == [expected, expected]


def test_selection_leaves_the_others_out(randn):
    method = KVSelection("high", 0.75)
    metric = randn(2, 24, 8)
    plan = method.plan(metric, GRID, MIDDLE, 0)
    found = stand_ins(plan, GRID, 2)
    for row in range(2):
        chosen = set(plan.chosen[row].tolist())
        assert found[row].tolist() == [n if n in chosen else -1 for n in range(24)]


def test_selection_per_square_stands_for_the_square(randn):
    plan = KVCellSelection("high", 2, 0.5).plan(randn(1, 24, 8), GRID, MIDDLE, 0)
    found = stand_ins(plan, GRID)[0].view(4, 6)
    chosen = set(plan.chosen[0].tolist())
    for row in range(0, 4, 2):
        for column in range(0, 6, 2):
            (one,) = set(found[row : row + 2, column : column + 2].flatten().tolist())
            assert one in chosen
            assert (one // 6 // 2, one % 6 // 2) == (row // 2, column // 2)


def test_the_numbers_add_up(randn):
    one = token_map(*[decided(TokenMerging(0.5), randn(1, 24, 8))] * 2)
    assert one.sizes.sum() == 24 and one.shortened.sum() == 12
    assert (one.sizes > 0).sum() == 12
    assert str(one).startswith(
        "layer 3 (encoder, level 1), L-GTM 0.5: 24 tokens -> 12 for queries, keys and values; "
    )


def test_words_tell_pooling_from_merging_and_count_what_is_left_out(randn):
    pooled = token_map(*[decided(KVDownsampling(2), randn(1, 24, 8))] * 2)
    assert "24 tokens -> 6 for keys and values; 6 stand for others" in str(pooled)
    chosen = token_map(*[decided(KVSelection("high", 0.75), randn(1, 24, 8))] * 2)
    assert str(chosen).endswith("the largest group has 1, 18 are left out")


def test_scores_are_those_that_decided(randn):
    metric = randn(1, 24, 8)
    method = TokenMerging(0.5, scorer="l2-norm")
    one = token_map(*[decided(method, metric)] * 2)
    torch.testing.assert_close(one.scores, metric[0].norm(dim=-1))
    for method in (TokenMerging(0.5, "random"), KVDownsampling(2)):
        assert token_map(*[decided(method, metric)] * 2).scores is None
    assert token_map(*[decided(BlockMerging(0.5), metric)] * 2).scores is not None


def test_a_cached_assignment_shows_the_scores_of_the_layer_that_decided(randn):
    first, second = randn(1, 24, 8, seed=1), randn(1, 24, 8, seed=2)
    method = TokenMerging(0.5, scorer="l2-norm", sharing=Sharing())
    decisions = []
    call = network_call(Rule(method), on_decision=decisions.append)
    call.visit(LayerId(0, "encoder"), first, GRID)
    call.visit(LayerId(1, "encoder"), second, GRID)
    assert [one.layer_id.number for one in decisions] == [0, 1]
    assert decisions[0].plan is decisions[1].plan
    torch.testing.assert_close(token_map(decisions[1], decisions[0]).scores, first[0].norm(dim=-1))


def test_layers_that_are_left_alone_are_not_told(randn):
    decisions = []
    call = network_call(Rule(TokenMerging(0.5)), on_decision=decisions.append)
    call.visit(LayerId(0, "encoder", level=2), randn(1, 24, 8), GRID)
    call.visit(LayerId(1, "encoder"), randn(1, 20, 8), GRID)
    assert decisions == []


def test_groups_have_the_mean_colour_of_their_pixels(randn):
    grid = TokenGrid(2, 2)
    image = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0))
    groups, _ = token_images([made([0, 0, 2, 3], grid)], image[None])
    mean = image[:16].mean((0, 1))
    shown = groups[0, 3, 3]  # inside token 0, beside its dot and the outlines
    torch.testing.assert_close(shown, 0.15 * image[3, 3] + 0.85 * mean)
    torch.testing.assert_close(groups[0, 20, 20], image[20, 20])  # a token of its own
    assert groups[0, 8, 8].tolist() == [1, 1, 1]  # the dot
    assert groups[0, 8, 24].tolist() != [1, 1, 1]


def test_outlines_lie_between_groups_only():
    image = torch.ones(1, 32, 32, 3)
    groups, _ = token_images([made([0, 0, 2, 3], TokenGrid(2, 2))], image)
    dark = groups[0].mean(-1) < 0.9
    assert dark[15].all() and not dark[:15].any()
    assert dark[16:, 15].all() and not dark[16:, 16:].any()


def test_what_is_left_out_is_dark():
    image = torch.ones(1, 32, 32, 3)
    groups, _ = token_images([made([0, -1, 2, 3], TokenGrid(2, 2), merges=False)], image)
    assert groups[0, 4, 24].max() < 0.2
    assert groups[0, 4, 4].min() == 1


def test_small_images_are_enlarged_and_large_ones_are_not():
    one = made(list(range(24)))
    groups, scores = token_images([one], torch.rand(1, 8, 12, 3))
    assert groups.shape == scores.shape == (1, 4 * LEAST_SIDE, 6 * LEAST_SIDE, 3)
    groups, _ = token_images([one], torch.rand(1, 50, 49, 3))
    assert groups.shape == (1, 50, 49, 3)


def test_higher_scores_are_brighter():
    scores = torch.arange(24.0)
    one = made(list(range(24)), scores=scores)
    _, shown = token_images([one], torch.zeros(1, 32, 48, 3))
    brightness = shown[0].sum(-1)[4::8, 4::8].flatten()
    assert (brightness.diff() > 0).all()


def test_masks_have_the_size_of_the_image(randn):
    plan = TokenMerging(0.5).plan(randn(1, 24, 8), GRID, MIDDLE, 0)
    assert isinstance(plan, MergePlan)
    one = made(plan.target[0].tolist())
    shortened, destinations = token_masks([one], (8, 12))
    assert shortened.shape == destinations.shape == (1, 8, 12)
    for token in range(24):
        row, column = token // 6 * 2, token % 6 * 2
        alone = plan.target[0].tolist().count(token) == 1
        assert shortened[0, row, column] == float(plan.target[0, token] != token)
        is_kept = bool(plan.target[0, token] == token)
        assert destinations[0, row + 1, column + 1] == float(is_kept and not alone)

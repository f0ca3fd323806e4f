"""Keys and values merged by content: against a loop over windows, and attention by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from bigain_core.methods import KeyMerging
from bigain_core.methods.base import random_bits
from bigain_core.methods.key_merging import destination_share
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import choose_destinations
from bigain_core.tokens.plans import repeated
from bigain_core.tokens.sequence import JointPlan
from tests.core.calls import MIDDLE
from tests.core.loops import four_signs, slow_matching

GRID = TokenGrid(6, 8)


def slow_sides(length, window):
    """Starts and ends of windows: whole ones, the last with all that is left."""
    starts = [n for n in range(0, length, window) if length - n >= window] or [0]
    return list(zip(starts, [*starts[1:], length], strict=True))


def slow_groups(tokens, grid, ratio, window, chosen):
    """{source: destinations that are most alike} over all windows, one after the other."""
    found = {}
    for top, bottom in slow_sides(grid.height, window):
        for start, end in slow_sides(grid.width, window):
            inside = [y * grid.width + x for y in range(top, bottom) for x in range(start, end)]
            own = [inside.index(d) for d in chosen if d in inside]
            merged = min(int(len(inside) * ratio), len(inside) - len(own)) if own else 0
            local = slow_matching([tokens[n] for n in inside], own, merged)
            found |= {inside[s]: {inside[d] for d in goals} for s, goals in local.items()}
    return found


@given(
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    cell=st.integers(2, 3),
    windows=st.integers(1, 3),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 9999),
)
def test_tokens_join_the_most_alike_destination_of_their_window(
    height, width, cell, windows, ratio, seed
):
    grid, window = TokenGrid(height, width), windows * cell
    metric = four_signs(2, grid.tokens, torch.Generator().manual_seed(seed))
    method = KeyMerging(ratio, window + 1, cell, seed)  # a window is rounded down to whole cells
    plan = method.plan(metric, grid, MIDDLE, 3)
    drawn = random_bits(grid.cells(cell).tokens, seed, MIDDLE, 3, metric.device)
    chosen = choose_destinations(metric[..., 0], grid, cell, "random", drawn)
    for sample in range(2):
        expected = slow_groups(
            metric[sample].tolist(), grid, ratio, window, chosen[sample].tolist()
        )
        assert plan.context_tokens == grid.tokens - len(expected)
        for token, goal in enumerate(plan.target[sample].tolist()):
            assert goal in expected.get(token, {token})


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_key_is_its_group_blended_with_its_destination(randn, alpha):
    metric, x = randn(2, 48, 8), randn(2, 48, 3, seed=1)
    plan = KeyMerging(0.6, 4, alpha=alpha).plan(metric, GRID, MIDDLE, 0)
    for sample in range(2):
        target = plan.target[sample]
        for place, token in enumerate(target.unique().tolist()):
            group = x[sample, target == token].double()
            expected = (1 - alpha) * group.mean(0) + alpha * x[sample, token].double()
            found = plan.context(x)[sample, place].double()
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
            assert plan.key_bias[sample, place] == pytest.approx(torch.tensor(len(group)).log())
    assert plan.queries(x) is x and plan.restore(x) is x


def test_equal_tokens_lose_nothing(randn):
    """Where a group is one token over and over, a weighed key is all of its keys."""
    few = randn(2, 12, 8)
    x = few[:, torch.arange(48) // 8 // 2 * 4 + torch.arange(48) % 8 // 2]  # squares of 2 x 2
    plan = KeyMerging(window=6).plan(x, GRID, MIDDLE, 0)
    q = randn(2, 48, 8, seed=2)
    out = scaled_dot_product_attention(q, plan.context(x), plan.context(x), plan.key_bias[:, None])
    expected = scaled_dot_product_attention(q, x, x)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_rotary_keys_are_those_of_the_destination_and_values_are_means(randn):
    grid = TokenGrid(6, 8, frames=2, prefix=3)
    x = randn(1, grid.sequence_tokens, 4)
    plan = KeyMerging().plan(grid.image(x), grid.frame, MIDDLE, 0)
    joint = JointPlan(grid, plan, plan.unblended(), proportional=True)
    assert torch.equal(joint.keys(x)[:, 3:], x[:, torch.cat([3 + plan.kept[0], 51 + plan.kept[1]])])
    torch.testing.assert_close(joint.values(x)[:, 3:], plan.context(grid.image(x)).view(1, -1, 4))
    bias = joint.key_bias(joint.keys(x))
    assert torch.equal(bias, torch.cat([torch.zeros(3), plan.key_bias.flatten()])[None])


def test_destinations_change_with_seed_layer_and_timestep_alone(randn):
    metric = randn(2, 48, 8)

    def kept(metric=metric, seed=0, progress=0.5, layer=0):
        plan = KeyMerging(seed=seed).plan(metric, GRID, DenoisingProgress(progress), layer)
        return plan.kept

    assert torch.equal(kept(), kept(-metric)) and torch.equal(kept()[0], kept()[1])
    for other in ({"seed": 1}, {"progress": 0.6}, {"layer": 1}):
        assert not torch.equal(kept(), kept(**other))


def test_a_plan_can_be_repeated_for_more_prompts(randn):
    metric = randn(1, 48, 8)
    twice = KeyMerging(0.5).plan(metric.repeat(2, 1, 1), GRID, MIDDLE, 0)
    copied = repeated(KeyMerging(0.5).plan(metric, GRID, MIDDLE, 0), 2)
    x = randn(2, 48, 3)
    assert torch.equal(copied.context(x), twice.context(x))
    assert torch.equal(copied.key_bias, twice.key_bias)


def test_alpha_follows_the_number_of_tokens(randn):
    shares = [destination_share(n) for n in (16, 256, 1024, 4096, 16384)]
    assert shares == pytest.approx([0, 0, 0.3, 0.6, 0.7])
    x = randn(1, 1024, 4)
    plans = [KeyMerging(alpha=a).plan(x, TokenGrid(32, 32), MIDDLE, 0) for a in (None, 0.3)]
    assert torch.equal(plans[0].context(x), plans[1].context(x))


def test_deciding_costs_less_than_3_percent_of_a_block_of_stable_diffusion():
    n, c = 4096, 320
    attention = 4 * n * n * c + 8 * n * c * c
    decided = KeyMerging().decision_flops(c, TokenGrid(64, 64))
    assert 0 < decided < 0.03 * attention


@pytest.mark.parametrize("wrong", [{"ratio": 1.5}, {"window": 0}, {"cell": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected .* got"):
        KeyMerging(**wrong)


@pytest.mark.parametrize("method", [KeyMerging(0), KeyMerging(cell=1)])
def test_nothing_to_remove_is_off(method):
    assert method.is_identity

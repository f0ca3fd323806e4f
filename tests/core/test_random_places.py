"""Pooling whose sampled token is drawn: against windows written out, and what is drawn."""

from dataclasses import replace

import pytest
import torch

from benchmarks.kernels import CountedKernels
from bigain_core.compression.rules import Rule
from bigain_core.compression.token_map import stand_ins
from bigain_core.methods import KVDownsampling
from bigain_core.methods.base import random_bits
from bigain_core.placement import LayerId
from bigain_core.schedules import AlphaSchedule, DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.plans import PoolPlan
from tests.core.calls import MIDDLE, network_call, planned

SAMPLED = AlphaSchedule(1.0, 1.0)


def random_places(factor=2, alpha=SAMPLED, **others):
    return KVDownsampling(factor, alpha, random_places=True, **others)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("height", "width", "factor"), [(6, 8, 2), (7, 11, 3), (2, 9, 4)])
def test_the_drawn_token_of_a_window_is_blended_with_its_mean(randn, height, width, factor, alpha):
    grid, x = TokenGrid(height, width), randn(2, height * width, 3)
    found = random_places(factor, AlphaSchedule(alpha, alpha), seed=5).plan(x, grid, MIDDLE, 1)
    h, w = max(1, height // factor), max(1, width // factor)
    down, right = height // h, width // w
    drawn = (random_bits(h * w, 5, MIDDLE, 0, x.device) + 1).tolist()  # layer 1
    for key in range(h * w):
        top, left = key // w * down, key % w * right
        window = [(top + y) * width + left + z for y in range(down) for z in range(right)]
        token = window[drawn[key] % len(window)]
        expected = alpha * x[:, token] + (1 - alpha) * x[:, window].mean(1)
        torch.testing.assert_close(found.context(x)[:, key], expected)


def test_places_change_with_seed_layer_and_timestep_alone(randn):
    x, grid = randn(2, 64, 4), TokenGrid(8, 8)

    def keys(metric=x, progress=0.5, layer=0, **others):
        return random_places(**others).plan(metric, grid, DenoisingProgress(progress), layer)

    assert torch.equal(keys().context(x), keys(-x).context(x))
    for other in ({"seed": 1}, {"progress": 0.6}, {"layer": 1}):
        assert not torch.equal(keys().context(x), keys(**other).context(x))


@pytest.mark.parametrize("factor", [2, 3])
def test_layers_take_turns_until_every_token_was_taken(randn, factor):
    grid, x = TokenGrid(6, 12), randn(1, 72, 4)
    plans = [random_places(factor).plan(x, grid, MIDDLE, layer) for layer in range(factor**2)]
    taken = torch.cat([plan.context(x) for plan in plans], dim=1)
    assert torch.equal(taken[0].sort(0).values, x[0].sort(0).values)


@pytest.mark.parametrize("opposite", [False, True])
def test_layers_of_a_call_share_one_draw(randn, opposite):
    """And so a layer starts a kernel for keys and one for values, and no more."""
    method, grid, x = random_places(opposite=opposite), TokenGrid(8, 8), randn(2, 64, 4)
    call = network_call(Rule(method))
    planned(call, LayerId(0, "transformer"), x, grid)
    values = -x
    for number in range(1, 6):
        with CountedKernels() as kernels:
            plan = planned(call, LayerId(number, "transformer"), x, grid)
            k, v, _ = plan.attended(x, x, values, 1)
        assert kernels.count == 2
        expected = method.plan(x, grid, MIDDLE, number).context(x)
        assert torch.equal(k, expected) and torch.equal(v, -expected)


def test_every_token_is_drawn_as_often(randn):
    """Over many seeds the sampled keys have the mean of all tokens."""
    x, grid = randn(1, 16, 4), TokenGrid(4, 4)
    found = [random_places(seed=s).plan(x, grid, MIDDLE, 0).context(x).mean(1) for s in range(3000)]
    torch.testing.assert_close(torch.cat(found).mean(0), x[0].mean(0), atol=0.03, rtol=0)


def test_textures_do_not_alias(randn):
    """Of stripes as wide as a token the fixed place sees one colour alone."""
    grid = TokenGrid(16, 16)
    x = (torch.arange(256) % 2).float()[None, :, None]
    assert KVDownsampling(2, SAMPLED).plan(x, grid, MIDDLE, 0).context(x).unique().numel() == 1
    assert 0.3 < random_places().plan(x, grid, MIDDLE, 0).context(x).mean() < 0.7


def test_rotary_keys_are_the_drawn_tokens(randn):
    x, grid = randn(1, 64, 4), TokenGrid(8, 8)
    blended = random_places(alpha=AlphaSchedule(0.5, 0.5)).plan(x, grid, MIDDLE, 0)
    sampled = random_places().plan(x, grid, MIDDLE, 0)
    assert torch.equal(blended.unblended().context(x), sampled.context(x))


@pytest.mark.parametrize(
    ("height", "width", "factor"), [(6, 8, 2), (7, 11, 3), (2, 9, 4), (1, 1, 2)]
)
def test_an_opposite_pair_is_the_drawn_token_and_that_across_the_middle(
    randn, height, width, factor
):
    grid, x = TokenGrid(height, width), randn(2, height * width, 3)
    plan = random_places(factor, opposite=True, seed=5).plan(x, grid, MIDDLE, 1)
    h, w = max(1, height // factor), max(1, width // factor)
    down, right = height // h, width // w
    drawn = (random_bits(h * w, 5, MIDDLE, 0, x.device) + 1).tolist()  # layer 1
    expected = []
    for key in range(h * w):
        y, z = divmod(drawn[key] % (down * right), right)
        pair = [(y, z), (down - 1 - y, right - 1 - z)][: down * right]
        top, left = key // w * down, key % w * right
        expected += sorted((top + y) * width + left + z for y, z in pair)
    assert torch.equal(plan.context(x), x[:, expected])
    assert plan.context_tokens == len(expected)


def test_the_mean_of_an_opposite_pair_is_that_of_a_slope():
    grid = TokenGrid(12, 12)
    slope = torch.arange(144.0)[None, :, None]  # rises evenly along both sides
    for factor in (2, 3):
        found = random_places(factor, opposite=True).plan(slope, grid, MIDDLE, 0).context(slope)
        average = PoolPlan(grid, factor, 0.0).context(slope)
        torch.testing.assert_close(found.view(1, -1, 2, 1).mean(2), average)


def test_each_token_of_a_pair_stands_for_the_half_that_it_lies_in():
    grid, x = TokenGrid(4, 4), torch.zeros(1, 16, 1)
    plan = random_places(opposite=True).plan(x, grid, MIDDLE, 0)
    owners = stand_ins(plan, grid)[0]
    rows = torch.arange(16) // 4
    assert torch.equal(owners // 4, rows), "halves of 2 x 2 tokens are their rows"
    assert owners.unique(return_counts=True)[1].tolist() == [2] * 8


@pytest.mark.parametrize(
    "wrong", [{"random_places": False}, {"alpha": AlphaSchedule(1.0, 0.9)}], ids=str
)
def test_pairs_are_neither_fixed_nor_blended(wrong):
    with pytest.raises(ValueError, match="expected random places and alpha 1"):
        replace(random_places(), opposite=True, **wrong)

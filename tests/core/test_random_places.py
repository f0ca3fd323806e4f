"""Pooling whose sampled token is drawn: against windows written out, and what is drawn."""

import pytest
import torch

from bigain_core.methods import KVDownsampling
from bigain_core.methods.base import random_bits
from bigain_core.schedules import AlphaSchedule, DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from tests.core.calls import MIDDLE

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
    drawn = random_bits(h * w, 5, MIDDLE, 1, x.device).tolist()
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

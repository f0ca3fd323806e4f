"""What BiGain (Auto) chooses for each kind of network."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks.kernels import SHAPES, kernels
from benchmarks.methods import BUNDLED_PLACEMENT
from bigain_core.compression.automatic import STRENGTHS, automatic_rules
from bigain_core.compression.presets import PRESETS
from bigain_core.measure.flops import attention_shortened, input_shortened, projections_shortened
from bigain_core.placement import LayerId
from bigain_core.tokens.grid import TokenGrid
from tests.core.calls import network_call, planned

KINDS = {"unet": input_shortened, "own": projections_shortened, "joint": attention_shortened}
LEVELS = (1, 1, 2, 2, 3, 3, 2, 1)
UNET = [LayerId(n, "encoder" if n < 5 else "decoder", level) for n, level in enumerate(LEVELS)]
PUBLISHED = (1, 2, 3, 4, 5, 7, 8, 9, 10, 11)  # of the 28 blocks of DiT-XL/2


def transformer(blocks):
    return [LayerId(n, "transformer") for n in range(blocks)]


def tokens_left(kind, strength, layers, height, width):
    """{layer: (queries, keys)} of one call, on a device for which nothing was measured."""
    rules = automatic_rules(strength, KINDS[kind], len(layers))
    call = network_call(*rules, layer_flops=KINDS[kind])
    for layer_id in layers:
        grid = TokenGrid(height >> layer_id.level - 1, width >> layer_id.level - 1)
        planned(call, layer_id, torch.empty(1, grid.tokens, 8, device="meta"), grid)
    log = call.log.layers.items()
    return {s.number: (r.query_tokens, r.context_tokens) for s, r in log if r.compressed}


in_unet = partial(tokens_left, "unet", layers=UNET)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_unets_are_pooled_at_random_places(strength):
    """Those of quality lie where the row of the paper without a loss has its fixed ones."""
    (rule,) = automatic_rules(strength, input_shortened, len(UNET))
    assert rule.method.random_places and rule.method.alpha.at(500) == 1
    if strength == "quality":
        (published,) = PRESETS["Table 9: IE-KVD factor 2"].rules
        assert rule.placement == published.placement
        assert not published.method.random_places, "rows of the paper are as they were"


@pytest.mark.parametrize("strength", ["quality", "balanced", "fast"])
def test_merged_keys_weigh_as_much_as_their_tokens(strength):
    (rule,) = automatic_rules(strength, projections_shortened, 28)
    assert rule.method.proportional


@pytest.mark.parametrize("kind", ["unet", "own"])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_no_layer_starts_many_kernels(kind, strength):
    for rule in automatic_rules(strength, KINDS[kind], 28):
        assert all(kernels(rule.method, shape) < 41 for shape in SHAPES.values())


@pytest.mark.parametrize(
    ("strength", "side", "finest", "second"),
    [
        ("quality", 64, 1024, None),
        ("quality", 128, 4096, None),
        ("balanced", 64, 1024, 256),
        ("balanced", 128, 4096, 1024),
        ("fast", 64, 256, 256),
        ("fast", 128, 1024, 256),
        ("auto", 32, None, None),
        ("auto", 64, 1024, None),
        ("auto", 96, 1024, 576),
        ("auto", 128, 1024, 1024),
        ("auto", 256, 4096, 1024),
    ],
)
def test_keys_that_a_unet_keeps(strength, side, finest, second):
    left = in_unet(strength, height=side, width=side)
    keys = {1: finest, 2: second, 3: None}
    expected = {layer_id.number: keys[layer_id.level] for layer_id in UNET if keys[layer_id.level]}
    assert {number: found for number, (_, found) in left.items()} == expected
    sides = {number: side >> UNET[number].level - 1 for number in left}
    assert all(queries == sides[number] ** 2 for number, (queries, _) in left.items())


@pytest.mark.parametrize(("height", "width"), [(52, 76), (56, 72), (63, 65), (48, 80)])
def test_auto_takes_oblong_images_for_as_large_as_square_ones(height, width):
    """About 64 x 64 tokens each: factor 2, as published."""
    left = in_unet("auto", height=height, width=width)
    keys = (height // 2) * (width // 2)
    assert left == dict.fromkeys((0, 1, 7), (height * width, keys))


@pytest.mark.parametrize(("strength", "kept"), [("quality", 512), ("balanced", 308), ("fast", 308)])
def test_a_dit_is_merged_in_the_published_blocks(strength, kept):
    left = tokens_left("own", strength, transformer(28), 32, 32)
    assert left == dict.fromkeys(PUBLISHED, (kept, kept))


@pytest.mark.parametrize("blocks", [1, 6, 28])
def test_auto_pools_every_block_of_a_dit_to_half_of_its_keys(blocks):
    for side, keys in ((64, 2048), (32, 512), (16, None)):
        left = tokens_left("own", "auto", transformer(blocks), side, side)
        assert left == {n: (side * side, keys) for n in range(blocks) if keys}


def test_fast_in_a_dit_decides_twice_as_the_published_scripts():
    (rule,) = automatic_rules("fast", projections_shortened, 28)
    call = network_call(replace(rule, only_where_faster=False), layer_flops=projections_shortened)
    grid, x = TokenGrid(8, 8), torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(0))
    plans = [planned(call, layer_id, x, grid) for layer_id in transformer(28)]
    assert all(plans[number] is plans[1] for number in PUBLISHED[:5])
    assert all(plans[number] is plans[7] for number in PUBLISHED[5:])
    assert plans[1] is not plans[7]


def test_the_published_depth_in_the_bundled_model_is_that_of_its_measurement():
    for kind, strength in (("own", "balanced"), ("joint", "quality")):
        (rule,) = automatic_rules(strength, KINDS[kind], 6)
        assert rule.placement.layers == BUNDLED_PLACEMENT.layers


@pytest.mark.parametrize("blocks", [28, 38, 57, 60])
def test_the_published_depth_is_the_same_share_of_every_network(blocks):
    (rule,) = automatic_rules("auto", attention_shortened, blocks)
    numbers = rule.placement.layers
    assert len(numbers) / blocks == pytest.approx(10 / 28, abs=0.03)
    assert min(numbers) / blocks == pytest.approx(1 / 28, abs=1 / blocks)
    assert (max(numbers) + 1) / blocks == pytest.approx(12 / 28, abs=1 / blocks)


@pytest.mark.parametrize(
    ("strength", "numbers", "keys"),
    [
        ("auto", PUBLISHED, 1024),
        ("quality", PUBLISHED, 1024),
        ("balanced", range(1, 28), 1024),
        ("fast", range(1, 28), 256),
    ],
)
def test_models_with_text_in_their_attention_are_pooled(strength, numbers, keys):
    left = tokens_left("joint", strength, transformer(28), 64, 64)
    assert left == dict.fromkeys(numbers, (4096, keys))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_every_network_has_a_layer_and_small_ones_are_spared(kind, strength):
    for blocks in (1, 2, 3):
        rules = automatic_rules(strength, KINDS[kind], blocks)
        layers = transformer(blocks)
        assert any(rule.placement.covers(layer_id) for rule in rules for layer_id in layers)
        assert all(rule.only_where_faster for rule in rules)

"""Every choice of the compressing nodes on the host's own models."""

from functools import cache, partial

import pytest
import torch
from bigain.bigain_core.comfyui.patching import unet
from bigain.bigain_core.compression import break_even
from bigain.bigain_core.compression.automatic import STRENGTHS
from bigain.bigain_core.compression.forwards import replaced_forwards
from bigain.bigain_core.compression.network_call import NetworkCall
from bigain.bigain_core.compression.rules import Compression, Rule
from bigain.bigain_core.compression.run_log import RunLog
from bigain.bigain_core.measure.flops import input_shortened
from bigain.bigain_core.methods import TokenMerging
from bigain.bigain_core.schedules import DenoisingProgress
from bigain.nodes import kv_nodes, merging_node
from bigain.nodes.compression_nodes import PAPER, BiGainAuto

from tests.host.compressing import alpha_curve, merge, pool, preset, report, skipped

NAMES = ("sd15", "sd2v", "sdxl", "dit")
WAYS = {method: partial(merge, method=method) for method in merging_node.METHODS}
WAYS |= {method: partial(pool, method=method) for method in kv_nodes.METHODS}


def layers(model):
    """What the report says of each compressed layer, by its number."""
    lines = report(model).splitlines()[1:]
    return {int(line.split()[1]): line.split(": ", 1)[1] for line in lines if "layer" in line[:5]}


def choices(inputs, name):
    """What a widget offers."""
    return next(item.options for item in inputs if item.id == name)


def test_the_ways_are_all_that_the_nodes_offer():
    for node, module, count in (
        (merging_node.BiGainTokenMerging, merging_node, 7),
        (kv_nodes.BiGainKVDownsampling, kv_nodes, 13),
    ):
        offered = [option.key for option in choices(node.define_schema().inputs, "method")]
        assert offered == list(module.METHODS) and len(offered) == count


@pytest.mark.parametrize(
    "option", ["scorer", "merge_mode", "metric", "protect_mode", "cache_scope"]
)
def test_every_choice_of_an_option_runs(models, sample, option):
    method = "cached assignment" if option == "cache_scope" else "L-GTM"
    changes = {"method": method, "protect": 0.2, "proportional": True, "blocks": "0"}
    for choice in choices(merging_node.METHODS[method].inputs, option):
        choice = getattr(choice, "key", choice)  # some bring inputs of their own
        model = merge(models["sd15"], **changes, **{option: choice})
        assert sample("sd15", model, steps=1).isfinite().all()
        assert set(layers(model)) == {0}, choice


def test_every_preset_for_all_blocks_acts_on_all_of_them(models, sample):
    presets = choices(BiGainAuto.define_schema().inputs, "preset")
    everywhere = [p for p in presets if p.startswith("paper: Table") and "encoder" not in p]
    assert len(everywhere) > 20
    for name in everywhere:
        model = preset(models["dit"], name)
        sample("dit", model, steps=1)
        assert set(layers(model)) == {0, 1}, name


@pytest.fixture(scope="module")
def in_one_step(models, sample):
    """Of a model by its name: plain, or with one of the ways."""

    def image(name, model):
        return sample(name, model, size=(12, 18), batch=2, steps=1)

    plain = cache(lambda name: image(name, models[name]))
    return plain, image


@pytest.mark.parametrize("name", ["sd15", "dit"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_runs_and_is_reported(models, in_one_step, name, way):
    plain, image = in_one_step
    model = WAYS[way](models[name])
    compressed = image(name, model)
    assert compressed.isfinite().all()
    assert not torch.equal(compressed, plain(name))
    assert layers(model) and not skipped(model)
    assert torch.equal(image(name, WAYS[way](models[name])), compressed), "same seed, same image"


@pytest.mark.parametrize("name", NAMES)
def test_any_method_at_ratio_0_or_factor_1_is_bit_identical(models, sample, name):
    plain = sample(name, models[name], steps=1)
    off = [merge(models[name], 0.0, method) for method in merging_node.METHODS]
    off += [pool(models[name], 1, method) for method in kv_nodes.METHODS]
    assert all(torch.equal(sample(name, model, steps=1), plain) for model in off)


def test_to_do_is_alpha_1_and_average_alpha_0(models, sample):
    for method, alpha in {"ToDo": 1.0, "average": 0.0}.items():
        named = sample("sd15", pool(models["sd15"], method=method))
        by_alpha = pool(models["sd15"], alpha_start=alpha, alpha_end=alpha)
        assert torch.equal(named, sample("sd15", by_alpha))


def test_a_curve_takes_the_place_of_the_line(models, sample):
    line = pool(models["sd15"], alpha_start=0.8, alpha_end=1.2)
    curve = pool(models["sd15"], alpha=alpha_curve("0: 1.2, 999: 0.8"))
    assert torch.equal(sample("sd15", curve), sample("sd15", line))
    bent = pool(models["sd15"], alpha=alpha_curve("0: 1.2, 500: 0, 999: 0.8"))
    assert not torch.equal(sample("sd15", bent), sample("sd15", line))


def test_the_second_level_has_its_own_factor(models, sample):
    model = pool(models["sd15"], 4, levels=2, level_2_factor=2)
    sample("sd15", model)
    found = {text.split(", alpha")[0] for text in layers(model).values()}
    assert found == {"IE-KVD factor 4", "IE-KVD factor 2"}
    finest = [text for text in layers(model).values() if "256 tokens" in text]
    assert finest and all(text.startswith("IE-KVD factor 4") for text in finest)


def test_the_finest_level_can_be_off_alone(models, sample):
    model = pool(models["sd15"], 1, levels=2, level_2_factor=2)
    sample("sd15", model)
    assert layers(model) and all("64 tokens -> 64 queries" in t for t in layers(model).values())


def test_an_assignment_is_cached_for_each_stage(models, sample):
    """A layer alone is L-GTM; the decoder's second layer reuses the plan of its first."""
    first, second = 5, 6  # the two finest layers of the decoder

    def image(method, blocks):
        return sample("sd15", merge(models["sd15"], method=method, blocks=blocks))

    assert torch.equal(image("cached assignment", f"{first}"), image("L-GTM", f"{first}"))
    both = f"{first}, {second}"
    assert not torch.equal(image("cached assignment", both), image("L-GTM", both))


def test_the_report_shows_how_many_blocks_merge(models, sample):
    model = merge(models["sd15"], method="adaptive block merge")
    sample("sd15", model)  # 256 tokens: int(256 * 0.7) // 3 = 59 blocks leave one token each
    assert "(59 of 64 blocks), 256 tokens -> 79 queries, 79 keys" in report(model)


def test_min_tokens_skips_small_layers(models, sample):
    model = merge(models["sd15"], levels=2, min_tokens=100)
    sample("sd15", model)
    assert all("256 tokens" in text for text in layers(model).values())
    assert "64 tokens, below the minimum of 100" in report(model)


def test_blocks_pick_single_layers(models, sample):
    model = merge(models["sd15"], levels=2, blocks="0-1, 6")
    sample("sd15", model)
    assert set(layers(model)) == {0, 1, 6}


def test_blocks_that_do_not_exist_are_refused(models):
    with pytest.raises(ValueError, match="attention layers from 0 to 1 of this model.*got 40-50"):
        merge(models["dit"], blocks="40-50")
    with pytest.raises(ValueError, match="BiGain: expected attention layers as numbers.*'first'"):
        merge(models["dit"], blocks="first")


def test_the_metric_can_be_the_normed_state(models, sample):
    published, normed = (
        sample("sd15", merge(models["sd15"], metric=metric)) for metric in ("block input", "normed")
    )
    assert not torch.equal(published, normed)


def first_layer(model, tokens, *methods):
    """Of 8 x 8 tokens: what plain attention gives, and with each of the methods."""
    network = model.model.diffusion_model
    found = unet.attention_layers(network)
    layer_id, block = found[0]
    options = {"activations_shape": [1, tokens.shape[-1], 8, 8]}
    outcomes = [block.attn1(tokens)]
    for method in methods:
        rules = Compression((Rule(method),))
        call = NetworkCall(
            rules, lambda: DenoisingProgress(0.5), RunLog(), layer_flops=input_shortened
        )
        with replaced_forwards(unet.UNet().intercept(found, call, None).forwards):
            block.norm1(tokens)
            outcomes.append(block.attn1(tokens, transformer_options=options))
        assert call.log.layers[layer_id].query_tokens == 64 - int(64 * method.ratio)
    return outcomes


def first_width(model):
    _, block = unet.attention_layers(model.model.diffusion_model)[0]
    return block.attn1.to_q.in_features


UNETS = pytest.mark.parametrize("name", ["sd15", "sd2v", "sdxl"])


@UNETS
def test_identical_tokens_merge_without_loss(models, name):
    width = first_width(models[name])
    tokens = torch.linspace(-1, 1, width).expand(1, 64, width)
    plain, merged = first_layer(models[name], tokens, TokenMerging(0.7))
    torch.testing.assert_close(merged, plain, rtol=1e-5, atol=1e-6)


@UNETS
def test_proportional_attention_is_exact_where_merged_tokens_are_equal(models, name):
    """Four different tokens, 16 times each: merging them loses nothing if keys carry weights."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(1, 4, first_width(models[name]), generator=generator).repeat(1, 16, 1)
    methods = [TokenMerging(0.5, "random", proportional=flag) for flag in (True, False)]
    plain, weighed, unweighed = first_layer(models[name], tokens, *methods)
    torch.testing.assert_close(weighed, plain, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(unweighed, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_proportional_attention_runs_everywhere(models, sample, name):
    weighed, plain = (merge(models[name], proportional=flag) for flag in (True, False))
    assert not torch.equal(sample(name, weighed, steps=1), sample(name, plain, steps=1))


def test_a_hybrid_preset_is_two_nodes_in_a_chain(models, sample):
    chained = pool(merge(models["sd15"], placement="encoder"), placement="decoder")
    row = preset(models["sd15"], PAPER + "Table 9: L-GTM encoder, IE-KVD decoder")
    assert torch.equal(sample("sd15", row), sample("sd15", chained))
    assert report(row) == report(chained)


def test_the_preset_off_hands_the_model_on(models):
    assert preset(models["sd15"], "off") is models["sd15"]


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", NAMES)
def test_auto_skips_small_images(models, sample, name, strength):
    auto = preset(models[name], strength)
    assert torch.equal(sample(name, auto, steps=1), sample(name, models[name], steps=1))
    assert "CHANGED NOTHING" in report(auto) and "only_where_faster skips such layers" in report(
        auto
    )


@pytest.fixture
def everything_pays(monkeypatch):
    """As if images were large: the threshold is in operations, so a small one stands for them."""
    methods = dict.fromkeys(break_even.BREAK_EVEN["cpu"], 0)
    monkeypatch.setattr(break_even, "BREAK_EVEN", {"cpu": methods})


@pytest.mark.parametrize(
    ("name", "strength", "by_hand"),
    [
        ("sd15", "quality", partial(pool, factor=2, method="random places")),
        ("sdxl", "balanced", partial(pool, factor=2, method="random places", levels=2)),
        ("dit", "quality", partial(merge, ratio=0.5, proportional=True, blocks="1")),
        ("dit", "balanced", partial(merge, ratio=0.7, proportional=True, blocks="1")),
    ],
)
def test_auto_does_what_a_node_set_by_hand_does(
    everything_pays, models, sample, name, strength, by_hand
):
    auto, other = preset(models[name], strength), by_hand(models[name])
    size = (32, 32)
    assert torch.equal(sample(name, auto, size), sample(name, other, size))
    assert layers(auto) == layers(other) != {}


def test_auto_pools_a_large_image_by_its_size(models, sample):
    """64 x 64 tokens are pooled by 2, as published; the real gate decides."""
    auto = preset(models["sd15"], "auto")
    assert not torch.equal(
        sample("sd15", auto, (64, 64), steps=1), sample("sd15", models["sd15"], (64, 64), steps=1)
    )
    assert all("4096 tokens -> 4096 queries, 1024 keys" in line for line in layers(auto).values())
    assert layers(auto)


def test_presets_meet_a_dit_that_lacks_their_layers(models, sample):
    row = preset(models["dit"], PAPER + "DiT: L-GTM 0.7, published blocks")
    sample("dit", row)
    assert set(layers(row)) == {1}  # of its two blocks
    with pytest.raises(ValueError, match="covers none"):
        preset(models["dit"], PAPER + "Table 9: L-GTM encoder, IE-KVD decoder")

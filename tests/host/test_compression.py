"""Compressing nodes on the host's own models."""

import comfy.model_base
import comfy.model_patcher
import pytest
import torch
from bigain.bigain_core.comfyui.patching import unet
from bigain.bigain_core.compression.forwards import replaced_forwards
from bigain.bigain_core.compression.network_call import NetworkCall
from bigain.bigain_core.compression.rules import Compression, Rule
from bigain.bigain_core.compression.run_log import RunLog
from bigain.bigain_core.measure.flops import input_shortened
from bigain.bigain_core.methods import TokenMerging
from bigain.bigain_core.schedules import DenoisingProgress
from comfy.patcher_extension import WrappersMP

from tests.host.compressing import merge, pool, report

NAMES = ("sd15", "sd2v", "sdxl", "dit")


def instance_forwards(model):
    modules = model.model.diffusion_model.modules()
    return [module for module in modules if "forward" in module.__dict__]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("off", [lambda m: merge(m, 0.0), lambda m: pool(m, 1)])
def test_ratio_zero_and_factor_one_are_bit_identical(models, sample, name, off):
    model = models[name]
    assert torch.equal(sample(name, off(model)), sample(name, model))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("on", [merge, pool, lambda m: merge(m, method="ToMe")])
def test_compression_changes_the_picture_and_leaves_the_model_alone(models, sample, name, on):
    model = models[name]
    plain = sample(name, model)
    weights = {key: value.clone() for key, value in model.model.state_dict().items()}
    compressed = sample(name, on(model))
    assert compressed.isfinite().all()
    assert not torch.equal(compressed, plain)
    assert torch.equal(sample(name, on(model)), compressed), "same seed, same picture"
    assert torch.equal(sample(name, model), plain), "the plain model is as it was"
    assert not instance_forwards(model)
    after = model.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in weights.items())


@pytest.mark.parametrize("name", ["sd15", "sd2v", "sdxl"])
def test_identical_tokens_merge_without_loss(models, name):
    network = models[name].model.diffusion_model
    layer_id, block = unet.attention_layers(network)[0]
    width = block.attn1.to_q.in_features
    tokens = torch.linspace(-1, 1, width).expand(1, 64, width)
    plain = block.attn1(tokens)
    rules = Compression((Rule(TokenMerging(0.7)),))
    call = NetworkCall(rules, DenoisingProgress(0.5), RunLog(), layer_flops=input_shortened)
    with replaced_forwards(unet.replacements(unet.attention_layers(network), call)):
        block.norm1(tokens)
        merged = block.attn1(tokens, transformer_options={"activations_shape": [1, width, 8, 8]})
    assert call.log.layers[layer_id].query_tokens == 64 - 44
    torch.testing.assert_close(merged, plain, rtol=1e-5, atol=1e-6)


def test_the_report_counts_layers_and_tokens(models, sample):
    model = pool(models["sd15"])
    sample("sd15", model, size=(16, 24))
    lines = report(model).splitlines()
    # Attention at full resolution: one encoder block, two decoder blocks.
    assert "3 of 7 self-attention layers compressed" in lines[0]
    assert [line.split(" in ")[0] for line in lines[1:]] == [
        f"layer {number} ({stage}, level 1): IE-KVD factor 2, alpha 0.9, "
        "384 tokens -> 384 queries, 96 keys,"
        for number, stage in ((0, "encoder"), (5, "decoder"), (6, "decoder"))
    ]


def test_the_finest_level_of_sdxl_is_where_its_attention_begins(models, sample):
    model = merge(models["sdxl"])
    sample("sdxl", model)
    assert "64 tokens -> 20 queries, 20 keys" in report(model)


def test_levels_reach_coarser_layers(models, sample):
    model = merge(models["sd15"], levels=2)
    sample("sd15", model)
    assert "7 of 7 self-attention layers compressed" in report(model)


def test_a_new_run_starts_a_new_report(models, sample):
    model = merge(models["sd15"])
    sample("sd15", model, size=(16, 16))
    first = report(model)
    sample("sd15", model, size=(16, 24))
    sample("sd15", model, size=(16, 16))
    assert report(model) == first


def test_two_nodes_in_a_chain_compose_by_placement(models, sample):
    chained = pool(merge(models["sd15"], placement="encoder"), placement="decoder")
    sample("sd15", chained)
    text = report(chained)
    assert "layer 0 (encoder, level 1): L-GTM 0.7" in text
    assert "layer 5 (decoder, level 1): IE-KVD factor 2, alpha 0.9" in text
    only_decoder = pool(models["sd15"], placement="decoder")
    sample("sd15", only_decoder)
    assert "encoder" not in report(only_decoder)


def test_wrappers_do_not_pile_up_in_a_chain(models):
    chained = pool(merge(models["sd15"], placement="encoder"), placement="decoder")
    assert len(chained.get_all_wrappers(WrappersMP.APPLY_MODEL)) == 1
    assert len(chained.get_all_wrappers(WrappersMP.OUTER_SAMPLE)) == 1


def test_the_same_rule_twice_is_that_rule_once(models, sample):
    once, twice = merge(models["sd15"]), merge(merge(models["sd15"]))
    assert torch.equal(sample("sd15", once), sample("sd15", twice))


def test_a_clone_made_by_another_node_is_reported_too(models, sample):
    model = merge(models["sd15"])
    sample("sd15", model.clone())
    assert "3 of 7" in report(model)


def test_outside_its_range_a_rule_does_nothing(models, sample):
    model = merge(models["sd15"], start_percent=0.8, end_percent=0.9)
    assert torch.equal(sample("sd15", model), sample("sd15", models["sd15"]))
    assert "CHANGED NOTHING" in report(model)


@pytest.mark.parametrize(("end", "level"), [(1.0, "INFO"), (0.4, "WARNING")])
def test_a_run_has_one_line_in_the_log_and_is_loud_if_nothing_was_changed(
    models, sample, caplog, end, level
):
    model = merge(models["sd15"], start_percent=0.39, end_percent=end)
    with caplog.at_level("INFO"):
        sample("sd15", model, steps=2)
    (record,) = [record for record in caplog.records if record.message.startswith("BiGain")]
    assert record.levelname == level
    assert record.message == report(model).splitlines()[0]


def test_half_a_range_acts_on_half_of_the_steps(models, sample):
    model = merge(models["sd15"], end_percent=0.5)
    sample("sd15", model, steps=4)
    assert "in 2 of 4 calls" in report(model)


def test_an_exception_in_the_network_leaves_nothing_behind(models, sample):
    model = merge(models["sd15"])

    def fail(executor, *args, **kwargs):
        raise RuntimeError("stop")

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", fail)
    with pytest.raises(RuntimeError, match="stop"):
        sample("sd15", model)
    assert not instance_forwards(model)


@pytest.mark.parametrize("size", [(9, 16), (16, 7), (2, 2), (5, 31)])
@pytest.mark.parametrize("name", NAMES)
def test_odd_sizes_run(models, sample, name, size):
    for model in (merge(models[name]), pool(models[name], factor=3)):
        assert sample(name, model, size=size).shape[-2:] == size


def test_a_sample_does_not_depend_on_its_batch(models, sample):
    """Same noise for image 0 in both runs: its tokens are matched among themselves only."""
    model = merge(models["sd15"])
    alone, both = sample("sd15", model), sample("sd15", model, batch=2)
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5 * alone.abs().max())


def test_the_global_random_state_is_left_alone(models, sample):
    state = torch.get_rng_state()
    sample("sd15", merge(models["sd15"], method="ToMe"))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_placement_without_layers_is_refused(models):
    with pytest.raises(
        ValueError, match="in \\['decoder', 'encoder', 'middle'\\]; this placement covers none"
    ):
        merge(models["sd15"], placement="blocks 0-5 (early)")
    with pytest.raises(ValueError, match="covers none"):
        pool(models["dit"], placement="encoder")


def test_a_family_that_is_not_covered_is_named(models):
    class Strange(torch.nn.Module):
        pass

    class Model(torch.nn.Module):
        diffusion_model = Strange()
        model_config = None

    model = comfy.model_patcher.ModelPatcher(Model(), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match="expected a model of one .*UNet.*Flux.*got a Model model"):
        merge(model)


@pytest.mark.parametrize("bad", [{"ratio": 1.5}, {"ratio": -0.1}])
def test_a_ratio_out_of_range_is_refused(models, bad):
    with pytest.raises(ValueError, match="expected a merge ratio between 0"):
        merge(models["sd15"], **bad)

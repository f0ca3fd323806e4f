"""Compressing nodes on the host's own models."""

import comfy.model_base
import comfy.model_patcher
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from tests.host.compressing import merge, pool, report


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


def test_two_nodes_in_a_chain_compose_by_placement(models, sample):
    chained = pool(merge(models["sd15"], placement="encoder"), placement="decoder")
    sample("sd15", chained)
    text = report(chained)
    assert "layer 0 (encoder, level 1): L-GTM 0.7" in text
    assert "layer 5 (decoder, level 1): IE-KVD factor 2, alpha 0.9" in text
    only_decoder = pool(models["sd15"], placement="decoder")
    sample("sd15", only_decoder)
    assert "encoder" not in report(only_decoder)


@pytest.mark.parametrize("off", [lambda m, **w: pool(m, 1, **w), lambda m, **w: merge(m, 0.0, **w)])
def test_a_later_node_that_is_off_leaves_its_layers_alone(models, sample, off):
    """As if the earlier node had been placed where the later one is not."""
    chained = off(merge(models["sd15"]), placement="decoder")
    expected = sample("sd15", merge(models["sd15"], placement="encoder"))
    assert torch.equal(sample("sd15", chained), expected)
    assert "1 of 7 self-attention layers compressed" in report(chained)
    everywhere = off(merge(models["sd15"]))
    assert torch.equal(sample("sd15", everywhere), sample("sd15", models["sd15"]))
    assert "CHANGED NOTHING" in report(everywhere) and "keeps every token" in report(everywhere)
    back = merge(everywhere)
    assert torch.equal(sample("sd15", back), sample("sd15", merge(models["sd15"])))


def test_a_node_that_is_off_from_the_middle_on_leaves_the_first_half(models, sample):
    half = merge(models["sd15"], end_percent=0.5)
    chained = pool(merge(models["sd15"]), 1, start_percent=0.5)
    assert torch.equal(sample("sd15", chained, steps=4), sample("sd15", half, steps=4))


@pytest.mark.parametrize("off", [lambda model: pool(model, 1), lambda model: merge(model, 0.0)])
def test_a_lone_node_that_is_off_wraps_nothing(models, off):
    alone = off(models["sd15"])
    assert not alone.get_all_wrappers(WrappersMP.APPLY_MODEL)
    assert not alone.model_options["transformer_options"]


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


def test_a_placement_without_layers_is_refused(models):
    with pytest.raises(
        ValueError, match="in \\['decoder', 'encoder', 'middle'\\]; this placement covers none"
    ):
        merge(models["sd15"], placement="blocks 0-5 (early)")
    with pytest.raises(ValueError, match="covers none"):
        pool(models["dit"], placement="encoder")


def test_layers_that_the_model_does_not_have_are_answered_with_those_it_has(models):
    with pytest.raises(ValueError, match="layers from 0 to 6 of .*, got 99. Change `blocks`"):
        merge(models["sd15"], blocks="99")


def test_a_family_that_is_not_covered_is_named(models):
    class Strange(torch.nn.Module):
        pass

    class Model(torch.nn.Module):
        diffusion_model = Strange()
        model_config = None

    model = comfy.model_patcher.ModelPatcher(Model(), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match="expected a model of one .*UNet.*Flux.*got a Model model"):
        merge(model)

"""Prompts in one call see the same latent: before text comes in, one of them decides for all."""

from functools import partial

import pytest
import torch
from bigain.bigain_core.classification import TrialPlan
from bigain.bigain_core.comfyui.classifying.latent_classifier import classify_latents
from bigain.bigain_core.methods import SimilarityPruning, TokenMerging
from comfy.patcher_extension import WrappersMP

import nodes
from tests.host.compressing import merge, pool
from tests.host.families import NAMED
from tests.host.families.case import sample
from tests.host.ranking import some_prompts
from tests.host.side_by_side import on_model, outputs
from tests.host.test_with_conditioning import (
    AREA,
    another_text,
    control_net,
    controlled_by,
    lora_hook,
)

WAYS = {
    "L-GTM": merge,
    "ToMe": partial(merge, method="ToMe"),
    "SiTo": partial(merge, method="SiTo"),
    "IE-KVD": pool,
}
PROMPTS = 5
PLAN = TrialPlan((1, 3), (4, 1))
LATENT = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def decided(monkeypatch):
    """(layer, rows) of every decision by merging or pruning, but for those that only count."""
    found = []
    for method in (TokenMerging, SimilarityPruning):

        def noted(self, metric, grid, progress, layer_id, plan=method.plan):
            if not metric.is_meta:
                found.append((layer_id, metric.shape[0]))
            return plan(self, metric, grid, progress, layer_id)

        monkeypatch.setattr(method, "plan", noted)
    return found


def apart(model):
    """Not told which rows belong to which prompt, so that every row decides for itself."""

    def silent(executor, x, t, concat, text, control, options, **conditions):
        options = {key: value for key, value in options.items() if key != "cond_or_uncond"}
        return executor(x, t, concat, text, control, options, **conditions)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", silent)


def errors(model, name):
    result = classify_latents(model, LATENT, some_prompts(NAMED[name], PROMPTS), PLAN)
    return result.rankings[0].table.errors.nan_to_num(-1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["sd15", "sd2v"])
def test_scores_are_those_of_a_plan_for_every_prompt(models, decided, name, way):
    plain = models[name].clone()
    apart(plain)
    each = errors(WAYS[way](plain), name)
    by_row = [rows for layer_id, rows in decided if layer_id == 0]
    decided.clear()
    together = errors(WAYS[way](models[name]), name)
    assert torch.equal(together, each)
    if way != "IE-KVD":
        assert by_row == [5, 4, 4]
        assert [rows for layer_id, rows in decided if layer_id == 0] == [1, 1, 1]
        assert {rows for layer_id, rows in decided if layer_id} == {5, 4}


@pytest.mark.parametrize("way", [way for way in WAYS if way != "IE-KVD"])
@pytest.mark.parametrize("batch", [1, 2])
def test_text_and_negative_text_share_the_first_plan_of_an_image(start, decided, way, batch):
    run = start(batch=batch).with_model(WAYS[way])
    together = run.image()
    assert {rows for layer_id, rows in decided if layer_id == 0} == {batch}
    assert {rows for layer_id, rows in decided if layer_id} == {2 * batch}
    each = on_model(apart)(start(batch=batch)).with_model(WAYS[way]).image()
    assert torch.equal(together, each)


def two_areas(run):
    """Of one size, so that the host asks for both in one call."""
    left = outputs(nodes.ConditioningSetArea, run.positive, 64, 96, 0, 0, 1.0)[0]
    right = outputs(nodes.ConditioningSetArea, another_text(run), 64, 96, 64, 0, 1.0)[0]
    return run.but(positive=outputs(nodes.ConditioningCombine, left, right)[0])


def brighter_for_one(run):
    """Another pack that changes one of the rows before the first attention."""

    def brighten(h, options):
        h[:1] += 0.5
        return h

    return on_model(lambda model: model.set_model_input_block_patch(brighten))(run)


# (run, rows that decide in each call that compresses the first layer)
CASES = {
    "another pack": (brighter_for_one, {2}),
    "areas": (two_areas, {4, 1}),  # the host adds the areas to the negative text
    "area beside the whole": (AREA, {1}),
    "LoRA for one text": (lora_hook, {1}),
    "ControlNet, which acts behind": (controlled_by(control_net), {1}),
}


@pytest.mark.usefixtures("lora_file")
@pytest.mark.parametrize("case", CASES)
def test_rows_decide_for_themselves_where_they_differ(start, decided, case):
    change, rows = CASES[case]
    together = change(start().with_model(merge)).image()
    assert {found for layer_id, found in decided if layer_id == 0} == rows
    each = change(on_model(apart)(start()).with_model(merge)).image()
    assert torch.equal(together, each)


def test_pooled_text_of_sdxl_tells_prompts_apart_from_the_start(models, decided):
    errors(merge(models["sdxl"]), "sdxl")
    assert {rows for layer_id, rows in decided if layer_id == 0} == {5, 4}


def test_a_transformer_into_which_text_comes_later_shares_as_well(decided):
    case = NAMED["pixart_sigma"]
    sample(case, merge(case.model))
    assert {rows for layer_id, rows in decided if layer_id == 0} == {1}
    assert {rows for layer_id, rows in decided if layer_id} == {2}

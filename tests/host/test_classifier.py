"""The node that classifies, and the classifier behind it, on a small Stable Diffusion."""

import gc
from dataclasses import replace

import comfy_extras.nodes_easycache
import comfy_extras.nodes_model_advanced as advanced
import pytest
import torch
from bigain.bigain_core.classification import (
    PLANS,
    AdaptiveTimes,
    Budget,
    Sequential,
    TrialPlan,
)
from bigain.bigain_core.classification.differences import differences
from bigain.bigain_core.comfyui.classifying.identity import settings
from bigain.bigain_core.comfyui.classifying.latent_classifier import classify_latents, encode_images
from bigain.bigain_core.comfyui.classifying.prompts import Prompts
from bigain.nodes._trial_plans import CUSTOM, PRESETS, chosen_plan
from bigain.nodes.classification_nodes import BiGainDiffusionClassifier, BiGainGate

from tests.host.compressing import merge
from tests.host.families import NAMED
from tests.host.ranking import Calls, some_prompts

PLAN = TrialPlan((1, 3), (2, 1))
LATENT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def sd15(models):
    return models["sd15"]


@pytest.fixture
def wanted():
    return some_prompts(NAMED["sd15"], 4)


def test_progress_counts_every_evaluation(sd15, wanted):
    calls = Calls()
    result = classify_latents(sd15, LATENT, wanted, PLAN, calls)
    assert result.calls == sum(calls.counts) == 2 * PLAN.calls(4) == 2 * (4 + 2 * 2)


def test_easycache_on_the_model_does_not_touch_the_scores(sd15, wanted):
    cached = comfy_extras.nodes_easycache.EasyCacheNode.execute(sd15, 10.0, 0.0, 1.0, False).args[0]
    plain = classify_latents(sd15, LATENT, wanted, PLAN)
    result = classify_latents(cached, LATENT, wanted, PLAN)
    for ours, theirs in zip(result.rankings, plain.rankings, strict=True):
        assert torch.equal(ours.table.errors.nan_to_num(-1), theirs.table.errors.nan_to_num(-1))
    assert cached.wrappers, "the user's model keeps its cache"


def test_compression_reaches_the_classifier(sd15, wanted):
    model = merge(sd15)
    plain = classify_latents(sd15, LATENT, wanted, PLAN)
    merged = classify_latents(model, LATENT, wanted, PLAN)
    assert not torch.equal(
        merged.rankings[0].table.errors[:, 0], plain.rankings[0].table.errors[:, 0]
    )


def test_interruption_stops_it(sd15, wanted):
    from comfy.model_management import InterruptProcessingException, interrupt_current_processing

    interrupt_current_processing(True)
    try:
        with pytest.raises(InterruptProcessingException):
            classify_latents(sd15, LATENT, wanted, PLAN)
    finally:
        interrupt_current_processing(False)


@pytest.mark.parametrize("shape", [(1, 16, 8, 8), (1, 3, 8, 8), (4, 8, 8)])
def test_a_latent_of_another_kind_is_refused(sd15, wanted, shape):
    with pytest.raises(ValueError, match=r"expected a latent of shape \(batch, 4, height, width\)"):
        classify_latents(sd15, torch.zeros(shape), wanted, PLAN)


def test_prompts_for_a_part_of_the_image_are_refused(sd15, wanted):
    wanted.conditionings[1][0][1]["area"] = (4, 4, 0, 0)
    with pytest.raises(ValueError, match="whole image at every timestep, got 'label 1'"):
        classify_latents(sd15, LATENT, wanted, PLAN)


def test_more_kept_than_present_is_refused(sd15, wanted):
    with pytest.raises(ValueError, match="at most the 4 prompts that are present, got 9"):
        classify_latents(sd15, LATENT, wanted, TrialPlan((1, 3), (9, 1)))


def run_node(model, prompts, preset=CUSTOM, trials="1, 3", keep="2, 1", **changes):
    own = {"trials": trials, "keep": keep} if preset == CUSTOM else {}
    inputs = {"preset": {"preset": preset, **own}, "loss": "l2", "trial_seed": 0} | changes
    return BiGainDiffusionClassifier.execute(model, prompts, **inputs)


def classify_node(model, prompts, **changes):
    return run_node(model, prompts, **changes).args


def test_the_node_gives_one_answer_per_image(sd15, wanted):
    best, labels, margins, table, result, confidence, chart, fits = classify_node(
        sd15, wanted, latent={"samples": LATENT}
    )
    assert [wanted.labels[k] for k in best] == labels
    assert len(best) == len(margins) == len(confidence) == len(chart) == len(fits) == 2
    assert table.splitlines()[1].split(",")[:3] == ["0", "1", labels[0]]
    assert result.best == best


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "an image with a VAE or a latent, got neither"),
        ({"image": torch.zeros(1, 8, 8, 3)}, "got image"),
        ({"latent": {"samples": LATENT}, "trials": "five"}, "whole numbers separated by commas"),
        ({"latent": {"samples": LATENT}, "trials": "20, 5"}, "expected ascending numbers"),
        ({"latent": {"samples": LATENT}, "keep": "1"}, "expected 2 descending numbers"),
    ],
)
def test_bad_inputs_of_the_node_are_explained(sd15, wanted, changes, message):
    with pytest.raises(ValueError, match=message):
        classify_node(sd15, wanted, **changes)


def test_the_best_prompt_of_a_class_answers_for_it(sd15, wanted):
    classes = ("x", "y", "x", "y")
    grouped = Prompts(wanted.labels, wanted.conditionings, classes)
    inputs = {"latent": {"samples": LATENT}, "trials": "3", "keep": "auto"}
    first = classify_node(sd15, wanted, **inputs)
    best, labels, margins, table, every, confidence, chart, _ = classify_node(
        sd15, grouped, **inputs
    )
    assert labels == [classes[k] for k in first[0]]
    for margin, ranking in zip(margins, every.rankings, strict=True):
        means = ranking.table.mean_errors.tolist()
        groups = [min(means[0], means[2]), min(means[1], means[3])]
        assert margin == pytest.approx(abs(groups[0] - groups[1]))
    assert len(every.labels) == 4, "the result keeps every prompt"


def test_every_preset_runs(sd15):
    wanted = some_prompts(NAMED["sd15"], 2)
    for preset in set(PRESETS) - {CUSTOM}:
        inputs = {"preset": preset, "max_evaluations": 8, "latent": {"samples": LATENT[:1]}}
        result = classify_node(sd15, wanted, **inputs)[4]
        assert result.calls <= 8
        assert (
            result.plan.rule == PLANS[preset].rule and result.plan.sampler == PLANS[preset].sampler
        )


def choices(**changes):
    return chosen_plan(**({"preset": CUSTOM, "loss": "l2", "trial_seed": 0} | changes))


def test_stages_of_ones_own_are_the_plan_of_the_paper():
    assert choices(trials="5, 20") == TrialPlan((5, 20))
    assert choices(trials="5, 20", keep="2, 1", trial_seed=4) == TrialPlan((5, 20), (2, 1), seed=4)


def test_choices_change_a_preset_and_zeros_leave_it():
    assert choices(preset="balanced", loss="l1", trial_seed=3) == replace(
        PLANS["balanced"], loss="l1", seed=3
    )
    changed = choices(preset="thorough", delta=0.2, design="adaptive", max_evaluations=9,
                      max_seconds=2.5, weighting="elbo")  # fmt: skip
    assert changed.rule.delta == 0.2 and changed.trials == PLANS["thorough"].trials
    assert changed.budget == Budget(9, 2.5) and changed.weighting == "elbo"
    assert isinstance(changed.sampler, AdaptiveTimes)
    assert choices(trials="5, 20", delta=0.1).rule == Sequential(0.1)
    with pytest.raises(ValueError, match="expected trials in Blocks"):
        choices(preset="certified", design="uniform")


def test_a_noise_mask_of_the_latent_reaches_the_errors(sd15, wanted):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    found, plain = (
        classify_node(sd15, wanted, latent={"samples": LATENT, **extra})[4]
        for extra in ({"noise_mask": mask}, {})
    )
    assert not torch.equal(
        found.rankings[0].table.errors[:, 0], plain.rankings[0].table.errors[:, 0]
    )


def test_the_node_screens_and_goes_on(sd15, wanted):
    inputs = {"latent": {"samples": LATENT}, "screening_model": merge(sd15)}
    inputs |= {"screening_trials": 2, "screening_keep": 2, "trials": "3", "keep": "auto"}
    first = classify_node(sd15, wanted, **inputs)[4]
    assert first.calls == 2 * 3 * 2 and first.rankings[0].screening.calls == 2 * 4
    again = classify_node(sd15, wanted, **inputs, previous=first)[4]
    assert torch.equal(
        again.rankings[1].table.errors.nan_to_num(), first.rankings[1].table.errors.nan_to_num()
    )


def test_images_are_encoded_one_by_one():
    """A video VAE takes a batch for the frames of one film."""

    class Film:
        def encode(self, pixels):
            assert pixels.shape[0] == 1 and pixels.shape[-1] == 3
            return pixels.movedim(-1, 1)[:, :, None]

    images = torch.rand(3, 4, 5, 4)
    latents = encode_images(Film(), images)
    assert torch.equal(latents[:, :, 0], images[..., :3].movedim(-1, 1))


def test_other_weights_compression_sampling_or_prompts_have_another_name(sd15, wanted):
    key = next(k for k in sd15.model_state_dict() if k.endswith("attn1.to_q.weight"))
    patched = sd15.clone()
    patched.add_patches({key: (torch.ones(sd15.model_state_dict()[key].shape),)}, 0.5)
    (sampled,) = advanced.ModelSamplingDiscrete().patch(sd15, "v_prediction", zsnr=False)
    again, guided = (some_prompts(NAMED["sd15"], 4) for _ in range(2))
    guided.conditionings[1][0][1]["guidance"] = 3.5
    other = Prompts(wanted.labels, wanted.conditionings[::-1])
    plain = settings(sd15, wanted)
    assert plain["model"] == "BaseModel" and settings(sd15.clone(), again) == plain
    changes = {
        "LoRAs": (patched, wanted), "compression": (merge(sd15), wanted),
        "noise levels": (sampled, wanted), "encoded prompts": (sd15, other),
    }  # fmt: skip
    for name, (model, given) in {**changes, "encoded prompts ": (sd15, guided)}.items():
        assert list(differences(settings(model, given), plain)) == [name.strip()]
    merged = [settings(merge(sd15, ratio), wanted) for ratio in (0.3, 0.5)]
    assert list(differences(*merged)) == ["compression"]


def test_no_table_of_a_prompt_is_kept(sd15):
    """One of as many numbers as a prompt has stayed for good, of eight lengths."""
    given = some_prompts(NAMED["sd15"], 4)
    settings(sd15, given)
    count = given.conditionings[0][0][0].numel()
    alive = [o for o in gc.get_objects() if type(o) is torch.Tensor and o.numel() == count]
    assert not [tensor for tensor in alive if tensor.dtype == torch.float64]


@pytest.mark.parametrize("screened", [False, True])
def test_a_result_of_another_model_is_not_gone_on_with(sd15, wanted, screened):
    model, other = sd15, merge(sd15, 0.3)
    inputs = {"latent": {"samples": LATENT}, "trials": "2", "keep": "auto"}
    screening = {"screening_trials": 1, "screening_keep": 2}
    if screened:
        first = classify_node(model, wanted, **inputs, screening_model=merge(model), **screening)[4]
        inputs |= screening | {"screening_model": other}
    else:
        first = classify_node(model, wanted, **inputs)[4]
        model = other
    with pytest.raises(
        ValueError, match="previous result of the same compression, got compression"
    ):
        classify_node(model, wanted, **inputs, previous=first)


def test_prompts_of_one_class_are_not_told_apart(sd15, wanted):
    one = Prompts(wanted.labels, wanted.conditionings, ("x",) * 4)
    inputs = {"latent": {"samples": LATENT}, "preset": "balanced"}
    spent = [classify_node(sd15, given, **inputs)[4].calls for given in (wanted, one)]
    assert spent[1] == 2 * 4 * 3 < spent[0]


def test_a_preview_of_many_prompts_is_short(sd15):
    few, many = (some_prompts(NAMED["sd15"], count) for count in (3, 60))
    inputs = {"trials": "1", "keep": "auto", "latent": {"samples": LATENT[:1]}}
    result = run_node(sd15, many, **inputs)
    shown = result.ui["text"][0]
    assert shown.count("label ") < 60 and "These are the 50 best of 60" in shown
    assert len(result.args[3].splitlines()) == 61
    result = run_node(sd15, few, **inputs)
    assert "These are the" not in result.ui["text"][0]


def test_the_temperature_reaches_the_table(sd15, wanted):
    inputs = {"latent": {"samples": LATENT[:1]}}

    def bits(**changes):
        table = classify_node(sd15, wanted, **inputs, **changes)[3]
        return [line.rsplit(",", 1)[1] for line in table.splitlines()]

    plain, cool = bits(), bits(temperature=0.0)
    assert plain[0] == cool[0] == "posterior_bits"
    assert cool[1:] == ["-2"] * 4 and plain[1:] != cool[1:]
    assert bits(loss="l1")[1:] == [""] * 4


@pytest.mark.parametrize(("value", "name"), [(0.9, "sure"), (0.95, "sure"), (0.1, "unsure")])
def test_the_gate_asks_for_the_input_that_it_passes_on(value, name):
    threshold = 0.9
    assert BiGainGate.check_lazy_status(value, threshold, None, None) == [name]
    given = {"sure": None, "unsure": None, name: "this"}
    assert BiGainGate.check_lazy_status(value, threshold, **given) == []
    assert BiGainGate.execute(value, threshold, **given).args == ("this", name == "sure")


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("image", "got image. Connect the VAE of the model"),
        ("vae", "got vae. Connect an image"),
        ("", "got neither. Connect an image and the VAE"),
        ("image latent", "got image and latent. Disconnect"),
        ("image vae latent", "got image and vae and latent. Disconnect"),
    ],
)
def test_a_missing_input_is_named(sd15, wanted, given, advice):
    inputs = dict.fromkeys(given.split(), object())
    with pytest.raises(ValueError, match=advice):
        BiGainDiffusionClassifier.execute(
            sd15, wanted, preset={"preset": "fast"}, loss="l2", trial_seed=0, **inputs
        )

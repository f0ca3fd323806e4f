"""The classifier against direct calls of the network, without the host's machinery."""

import math
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
    trial_noise,
)
from bigain.bigain_core.comfyui.classifying.identity import identity
from bigain.bigain_core.comfyui.classifying.latent_classifier import classify_latents, encode_images
from bigain.bigain_core.comfyui.classifying.prompts import Prompts
from bigain.nodes._trial_plans import CUSTOM, PRESETS, TrialChoices
from bigain.nodes.classification_nodes import BiGainDiffusionClassifier, BiGainGate, BiGainPrompts

from tests.host.compressing import merge
from tests.host.ranking import Calls

NAMES = ("sd15", "sd2v", "sdxl", "dit")
PLAN = TrialPlan((1, 3), (2, 1))
LATENT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def prompts(conditioning):
    def make(name, model, count=4):
        labels = tuple(f"label {number}" for number in range(count))
        return Prompts(labels, tuple(conditioning(name, model, k) for k in range(count)))

    return make


@pytest.fixture
def sd15(models):
    return models["sd15"]


@pytest.fixture
def wanted(prompts, sd15):
    return prompts("sd15", sd15)


def direct_error(name, model, conditioning, latent, timestep, noise):
    """Mean squared error of what the network predicts, from one plain call of it."""
    base = model.model
    clean = base.process_latent_in(latent)
    sigma = float(base.model_sampling.sigma(torch.tensor([timestep])))
    signal = 1 / (sigma**2 + 1)
    noisy = math.sqrt(signal) * clean + math.sqrt(1 - signal) * noise
    context, extra = conditioning[0]
    steps = torch.tensor([float(timestep)])
    if name == "dit":
        output = base.diffusion_model(noisy, steps, y=extra["class_label"])
    elif name == "sdxl":
        sides = {"width": 64, "height": 64, "device": "cpu"}
        adm = base.encode_adm(pooled_output=extra["pooled_output"], **sides)
        output = base.diffusion_model(noisy, steps, context, y=adm)
    else:
        output = base.diffusion_model(noisy, steps, context)
    target = noise
    if name == "sd2v":
        target = math.sqrt(signal) * noise - math.sqrt(1 - signal) * clean
    return (output - target).square().mean().item()


@pytest.mark.parametrize("name", NAMES)
def test_errors_equal_direct_calls_of_the_network(models, prompts, name):
    model = models[name]
    wanted = prompts(name, model)
    result = classify_latents(model, LATENT, wanted, PLAN)
    for image, ranking in enumerate(result.rankings):
        for trial, timestep in enumerate([spec.timestep for spec in ranking.table.specs]):
            noise = trial_noise((4, 8, 8), PLAN.seed, image, trial)[None]
            for prompt in ranking.table.errors[:, trial].isfinite().nonzero().flatten().tolist():
                expected = direct_error(
                    name, model, wanted.conditionings[prompt], LATENT[image : image + 1],
                    timestep, noise,
                )  # fmt: skip
                found = ranking.table.errors[prompt, trial].item()
                assert found == pytest.approx(expected, rel=2e-5, abs=1e-6)
    assert result.calls == 2 * PLAN.calls(4)


def test_progress_counts_every_evaluation(sd15, wanted):
    calls = Calls()
    classify_latents(sd15, LATENT, wanted, PLAN, calls)
    assert sum(calls.counts) == 2 * PLAN.calls(4) == 2 * (4 + 2 * 2)


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


def classify_node(model, prompts, **changes):
    inputs = {"trials": "1, 3", "keep": "2, 1", "loss": "l2", "trial_seed": 0} | changes
    return BiGainDiffusionClassifier.execute(model, prompts, **inputs).args


def test_the_node_gives_one_answer_per_image(sd15, wanted):
    best, labels, margins, table, result, confidence, chart = classify_node(
        sd15, wanted, latent={"samples": LATENT}
    )
    assert [wanted.labels[k] for k in best] == labels
    assert len(best) == len(margins) == len(confidence) == len(chart) == 2
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
    best, labels, margins, table, every, confidence, chart = classify_node(sd15, grouped, **inputs)
    assert labels == [classes[k] for k in first[0]]
    for margin, ranking in zip(margins, every.rankings, strict=True):
        means = ranking.table.mean_errors.tolist()
        groups = [min(means[0], means[2]), min(means[1], means[3])]
        assert margin == pytest.approx(abs(groups[0] - groups[1]))
    assert len(every.labels) == 4, "the result keeps every prompt"


def test_every_preset_runs(sd15, prompts):
    wanted = prompts("sd15", sd15, 2)
    for preset in set(PRESETS) - {CUSTOM}:
        inputs = {"preset": preset, "max_evaluations": 8, "latent": {"samples": LATENT[:1]}}
        result = classify_node(sd15, wanted, **inputs, trials="ignored", keep="ignored")[4]
        assert result.calls <= 8
        assert (
            result.plan.rule == PLANS[preset].rule and result.plan.sampler == PLANS[preset].sampler
        )


def choices(**changes):
    usual = {
        "trials": "5, 20", "keep": "auto", "loss": "l2", "trial_seed": 0
    }  # fmt: skip
    return TrialChoices(**(usual | changes)).plan()


def test_what_was_saved_before_presets_existed_is_the_plan_of_the_paper():
    assert choices() == TrialPlan((5, 20))
    assert choices(keep="2, 1", trial_seed=4) == TrialPlan((5, 20), (2, 1), seed=4)


def test_choices_change_a_preset_and_zeros_leave_it():
    assert choices(preset="balanced", loss="l1", trial_seed=3) == replace(
        PLANS["balanced"], loss="l1", seed=3
    )
    changed = choices(preset="thorough", delta=0.2, design="adaptive", max_evaluations=9,
                      max_seconds=2.5, weighting="elbo")  # fmt: skip
    assert changed.rule.delta == 0.2 and changed.trials == PLANS["thorough"].trials
    assert changed.budget == Budget(9, 2.5) and changed.weighting == "elbo"
    assert isinstance(changed.sampler, AdaptiveTimes)
    assert choices(delta=0.1).rule == Sequential(0.1)
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


def test_other_weights_compression_sampling_or_prompts_have_another_name(sd15, wanted, prompts):
    key = next(k for k in sd15.model_state_dict() if k.endswith("attn1.to_q.weight"))
    patched = sd15.clone()
    patched.add_patches({key: (torch.ones(sd15.model_state_dict()[key].shape),)}, 0.5)
    (sampled,) = advanced.ModelSamplingDiscrete().patch(sd15, "v_prediction", zsnr=False)
    again, guided = (prompts("sd15", sd15) for _ in range(2))
    guided.conditionings[1][0][1]["guidance"] = 3.5
    other = Prompts(wanted.labels, wanted.conditionings[::-1])
    names = [
        identity(sd15, wanted), identity(patched, wanted), identity(merge(sd15), wanted),
        identity(merge(sd15, 0.3), wanted), identity(sampled, wanted), identity(sd15, other),
        identity(sd15, guided),
    ]  # fmt: skip
    assert len(set(names)) == len(names) and all(name.startswith("BaseModel ") for name in names)
    assert identity(sd15.clone(), again) == names[0]


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
    with pytest.raises(ValueError, match="previous result of the same model, got one of BaseModel"):
        classify_node(model, wanted, **inputs, previous=first)


def test_prompts_of_one_class_are_not_told_apart(sd15, wanted):
    one = Prompts(wanted.labels, wanted.conditionings, ("x",) * 4)
    inputs = {"latent": {"samples": LATENT}, "preset": "balanced"}
    spent = [classify_node(sd15, given, **inputs)[4].calls for given in (wanted, one)]
    assert spent[1] == 2 * 4 * 3 < spent[0]


def test_a_preview_of_many_prompts_is_short(sd15, prompts):
    few, many = prompts("sd15", sd15, 3), prompts("sd15", sd15, 60)
    inputs = {"trials": "1", "keep": "auto", "latent": {"samples": LATENT[:1]}}
    result = BiGainDiffusionClassifier.execute(sd15, many, **inputs, loss="l2", trial_seed=0)
    shown = result.ui["text"][0]
    assert shown.count("label ") < 60 and "These are the 50 best of 60" in shown
    assert len(result.args[3].splitlines()) == 61
    result = BiGainDiffusionClassifier.execute(sd15, few, **inputs, loss="l2", trial_seed=0)
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


def test_inputs_that_came_later_are_optional_and_behind_the_others():
    """Workflows store widgets by position, and prompts of older versions lack the new ones."""
    names = [field.id for field in BiGainDiffusionClassifier.define_schema().inputs]
    assert names[:9] == [
        "model", "prompts", "trials", "keep", "loss", "trial_seed", "image", "vae", "latent"
    ]  # fmt: skip
    later = BiGainDiffusionClassifier.define_schema().inputs[9:]
    assert later[0].id == "preset" and later[0].default == CUSTOM
    assert all(field.optional for field in later)
    outputs = [field.display_name for field in BiGainDiffusionClassifier.define_schema().outputs]
    assert outputs == [
        "best_index", "best_prompt", "margin", "table", "result", "confidence", "chart"
    ]  # fmt: skip
    labels = BiGainPrompts.define_schema().inputs
    assert [field.id for field in labels] == ["clip", "labels", "template", "label_set"]
    assert labels[3].optional and labels[3].default == CUSTOM

"""The classifier against direct calls of the network, without the host's machinery."""

import math

import comfy_extras.nodes_easycache
import pytest
import torch
from bigain.bigain_core.classification import TrialPlan, trial_noise
from bigain.bigain_core.comfyui.classifier import Prompts, classify_latents, encode_prompts
from bigain.nodes.classification import BiGainDiffusionClassifier, BiGainPrompts
from bigain.nodes.dit import BiGainDiTLabels

from tests.host.compressing import merge

NAMES = ("sd15", "sd2v", "sdxl", "dit")
PLAN = TrialPlan((1, 3), (2, 1))
LATENT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def prompts(conditioning):
    def make(name, model, count=4):
        labels = tuple(f"label {number}" for number in range(count))
        return Prompts(labels, tuple(conditioning(name, model, k) for k in range(count)))

    return make


def silent(calls):
    pass


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
    result = classify_latents(model, LATENT, wanted, PLAN, silent)
    for image, ranking in enumerate(result.rankings):
        for trial, timestep in enumerate(ranking.timesteps.tolist()):
            noise = trial_noise((4, 8, 8), PLAN.seed, image, trial)[None]
            for prompt in ranking.errors[:, trial].isfinite().nonzero().flatten().tolist():
                expected = direct_error(
                    name, model, wanted.conditionings[prompt], LATENT[image : image + 1],
                    timestep, noise,
                )  # fmt: skip
                found = ranking.errors[prompt, trial].item()
                assert found == pytest.approx(expected, rel=2e-5, abs=1e-6)
    assert result.calls == 2 * PLAN.calls(4)


def test_progress_counts_every_evaluation(models, prompts):
    calls = []
    classify_latents(models["sd15"], LATENT, prompts("sd15", models["sd15"]), PLAN, calls.append)
    assert sum(calls) == 2 * PLAN.calls(4) == 2 * (4 + 2 * 2)


def test_easycache_on_the_model_does_not_touch_the_scores(models, prompts):
    model = models["sd15"]
    wanted = prompts("sd15", model)
    cached = comfy_extras.nodes_easycache.EasyCacheNode.execute(model, 10.0, 0.0, 1.0, False).args[
        0
    ]
    plain = classify_latents(model, LATENT, wanted, PLAN, silent)
    result = classify_latents(cached, LATENT, wanted, PLAN, silent)
    for ours, theirs in zip(result.rankings, plain.rankings, strict=True):
        assert torch.equal(ours.errors.nan_to_num(-1), theirs.errors.nan_to_num(-1))
    assert cached.wrappers, "the user's model keeps its cache"


def test_compression_reaches_the_classifier(models, prompts):
    model = merge(models["sd15"])
    wanted = prompts("sd15", model)
    plain = classify_latents(models["sd15"], LATENT, wanted, PLAN, silent)
    merged = classify_latents(model, LATENT, wanted, PLAN, silent)
    assert not torch.equal(merged.rankings[0].errors[:, 0], plain.rankings[0].errors[:, 0])


def test_interruption_stops_it(models, prompts):
    from comfy.model_management import InterruptProcessingException, interrupt_current_processing

    interrupt_current_processing(True)
    try:
        with pytest.raises(InterruptProcessingException):
            classify_latents(models["sd15"], LATENT, prompts("sd15", models["sd15"]), PLAN, silent)
    finally:
        interrupt_current_processing(False)


@pytest.mark.parametrize("shape", [(1, 16, 8, 8), (1, 3, 8, 8), (4, 8, 8)])
def test_a_latent_of_another_kind_is_refused(models, prompts, shape):
    model = models["sd15"]
    with pytest.raises(ValueError, match=r"expected a latent of shape \(batch, 4, height, width\)"):
        classify_latents(model, torch.zeros(shape), prompts("sd15", model), PLAN, silent)


def test_prompts_for_a_part_of_the_image_are_refused(models, prompts):
    model = models["sd15"]
    wanted = prompts("sd15", model)
    wanted.conditionings[1][0][1]["area"] = (4, 4, 0, 0)
    with pytest.raises(ValueError, match="whole image at every timestep, got 'label 1'"):
        classify_latents(model, LATENT, wanted, PLAN, silent)


def test_more_kept_than_present_is_refused(models, prompts):
    model = models["sd15"]
    with pytest.raises(ValueError, match="at most the 4 prompts that are present, got 9"):
        classify_latents(model, LATENT, prompts("sd15", model), TrialPlan((1, 3), (9, 1)), silent)


class WordCounter:
    """Stands for a CLIP: notes what it is asked to read."""

    def __init__(self):
        self.seen = []

    def tokenize(self, text, disable_weights=False):
        assert disable_weights, "parentheses would be read as weights"
        self.seen.append(text)
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return [[torch.full((1, 1, 1), float(len(tokens))), {}]]


def test_prompts_fill_the_template_with_plain_text():
    clip = WordCounter()
    node = BiGainPrompts.execute(clip, "\ncat (animal)\n  dog: big\n", "a photo of a {}")
    assert clip.seen == ["a photo of a cat (animal)", "a photo of a dog: big"]
    assert node.args[0].labels == ("cat (animal)", "dog: big")


@pytest.mark.parametrize(
    ("labels", "template", "message"),
    [
        ("", "{}", "expected at least one prompt, got none"),
        ("cat\n\ndog", "{}", "an empty one on line 2"),
        ("cat\ncat", "{}", "got 'cat' more than once"),
        ("cat", "a photo", "expected a template with {} where the label goes, got 'a photo'"),
    ],
)
def test_bad_prompts_are_explained(labels, template, message):
    with pytest.raises(ValueError, match=message.replace("{}", r"\{\}")):
        BiGainPrompts.execute(WordCounter(), labels, template)


def test_a_checkpoint_without_text_encoder_is_explained():
    with pytest.raises(ValueError, match="expected a CLIP"):
        encode_prompts(None, ["cat"], "{}")


def classify_node(model, prompts, **changes):
    inputs = {"trials": "1, 3", "keep": "2, 1", "loss": "l2", "trial_seed": 0} | changes
    return BiGainDiffusionClassifier.execute(model, prompts, **inputs).args


def test_the_node_gives_one_answer_per_image(models, prompts):
    wanted = prompts("sd15", models["sd15"])
    best, labels, margins, table, result = classify_node(
        models["sd15"], wanted, latent={"samples": LATENT}
    )
    assert [wanted.labels[k] for k in best] == labels
    assert len(best) == len(margins) == 2
    assert table.splitlines()[1].split(",")[:3] == ["0", "1", labels[0]]
    assert result.best == best


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "an image with a VAE or a latent, got neither"),
        ({"image": torch.zeros(1, 8, 8, 3)}, "got image"),
        ({"latent": {"samples": LATENT, "noise_mask": 0}}, "without a mask"),
        ({"latent": {"samples": LATENT}, "trials": "five"}, "whole numbers separated by commas"),
        ({"latent": {"samples": LATENT}, "trials": "20, 5"}, "expected ascending numbers"),
        ({"latent": {"samples": LATENT}, "keep": "1"}, "expected 2 descending numbers"),
    ],
)
def test_bad_inputs_of_the_node_are_explained(models, prompts, changes, message):
    with pytest.raises(ValueError, match=message):
        classify_node(models["sd15"], prompts("sd15", models["sd15"]), **changes)


def test_labels_of_a_dit_come_by_name_and_number(models):
    positive, negative, wanted = BiGainDiTLabels.execute(models["dit"], "bee\n4").args
    assert wanted.labels == ("bee", "4")
    assert positive[0][1]["class_label"].tolist() == [1, 4]
    assert "class_label" not in negative[0][1]
    everything = BiGainDiTLabels.execute(models["dit"], "").args[2]
    assert everything.labels == ("ant", "bee", "cat", "dog", "eel")


def test_labels_need_a_dit(models):
    with pytest.raises(ValueError, match="expected a model from BiGain DiT Loader"):
        BiGainDiTLabels.execute(models["sd15"], "cat")
    with pytest.raises(ValueError, match="class number from 0 to 4 or a name such as ant.*'fox'"):
        BiGainDiTLabels.execute(models["dit"], "fox")

"""The nodes that explain and compare: the evidence map and the ranking of images."""

import math

import pytest
import torch
from bigain.bigain_core.classification import (
    PLANS,
    SpreadGrid,
    Trial,
    TrialPlan,
    classify,
    trial_noise,
)
from bigain.bigain_core.classification.results.fit import OFFSET, SLOPE, TRIALS, WRONG
from bigain.bigain_core.comfyui.classifying.latent_classifier import classify_latents, encode_images
from bigain.bigain_core.comfyui.classifying.latent_evidence import find_evidence
from bigain.bigain_core.models.checkpoint import read_checkpoint
from bigain.nodes.classification_nodes import BiGainDiffusionClassifier
from bigain.nodes.dit_nodes import BiGainDiTLabels
from bigain.nodes.evidence_nodes import BiGainEvidenceMap, BiGainRankImages
from scipy import stats

from benchmarks.data import CLASS_NAMES
from benchmarks.dit_runner import SMALL_DIT, DiTRunner, load_dit
from tests.host.drawn import COUNT, LABELS


@pytest.fixture(scope="module")
def runner(shallow_file):
    return DiTRunner(load_dit(read_checkpoint(shallow_file)))


def direct_evidence(denoiser, latent, image, specs, pair):
    """(H, W): what each pixel adds to the difference of the errors, written out."""
    total = torch.zeros(latent.shape, dtype=torch.float64)
    for spec in specs:
        noise = trial_noise(tuple(latent.shape), 0, image, spec.noise)
        trial = Trial(denoiser.schedule.level(spec.timestep), noise)
        clean = denoiser(latent, trial, pair)
        squares = ((clean - latent) * trial.level.signal / trial.level.noise).double() ** 2
        total += squares[1] - squares[0]
    return (total / latent.numel() / len(specs)).sum(0)


def test_the_map_is_what_each_pixel_adds_to_the_margin(
    shallow, drawn_prompts, vae, drawings, runner
):
    pixels = drawings[0][[0, 4]]
    plan = TrialPlan((2, 5), (2, 1))
    found = find_evidence(
        shallow,
        encode_images(vae, pixels),
        drawn_prompts,
        plan,
        LABELS[0],
        LABELS[1],
    )
    denoiser = runner.denoiser([CLASS_NAMES.index(label) for label in LABELS])
    for image, one in enumerate(found):
        latent = (pixels[image] * 2 - 1).movedim(-1, 0)
        ranking = classify(denoiser, latent[None], LABELS[:2], plan, image).rankings[0]
        assert one.lead.trials == len(ranking.table.specs)
        expected = direct_evidence(denoiser, latent, image, ranking.table.specs, [0, 1])
        scale = expected.abs().max().item()
        torch.testing.assert_close(one.plane, expected, rtol=1e-3, atol=1e-4 * scale)
        assert one.plane.sum().item() == pytest.approx(one.lead.margin, rel=1e-6)


def test_best_and_runner_up_are_compared_unless_named(shallow, drawn_prompts, vae, drawings):
    latents = encode_images(vae, drawings[0][::2])
    plan = PLANS["fast"]
    result = classify_latents(shallow, latents, drawn_prompts, plan)
    found = find_evidence(shallow, latents, drawn_prompts, plan, "", "")
    for ranking, one in zip(result.rankings, found, strict=True):
        assert [one.better, one.worse] == [LABELS[k] for k in ranking.order[:2]]
        assert one.plane.sum().item() == pytest.approx(ranking.margin, rel=1e-5)
    named = find_evidence(shallow, latents, drawn_prompts, plan, "", LABELS[0])
    for ranking, one in zip(result.rankings, named, strict=True):
        assert one.worse == LABELS[0]
        assert one.better == next(LABELS[k] for k in ranking.order if LABELS[k] != LABELS[0])


PAIRS = (LABELS[:2], LABELS[1::-1])


def evidence(shallow, prompts, vae, images, **changes):
    inputs = {"prompt_a": "", "prompt_b": "", "preset": "fast", "smoothing": 1, "trial_seed": 0}
    return BiGainEvidenceMap.execute(shallow, prompts, images, vae, **(inputs | changes)).args


def test_the_evidence_node_shows_samples_masks_and_margins(shallow, drawn_prompts, vae, drawings):
    overlay, mask, value = evidence(shallow, drawn_prompts, vae, drawings[0][:2])
    assert overlay.shape == (2, 32, 32, 3) and mask.shape == (2, 32, 32)
    assert len(value.splitlines()) == 2
    assert " over " in value and "margin " in value
    turned = evidence(
        shallow, drawn_prompts, vae, drawings[0][:2], prompt_a=LABELS[1], prompt_b=LABELS[0]
    )
    back = evidence(
        shallow, drawn_prompts, vae, drawings[0][:2], prompt_a=LABELS[0], prompt_b=LABELS[1]
    )
    assert not (turned[1] * back[1] > 0.01).any(), "what is for one is against the other"


def test_bad_names_of_the_evidence_node_are_explained(shallow, drawn_prompts, vae, drawings):
    single = BiGainDiTLabels.execute(shallow, LABELS[0]).args[2]
    for given, names, message in (
        (drawn_prompts, {"prompt_a": "fox"}, "one of the prompts, such as 'plain disc', got 'fox'"),
        (drawn_prompts, {"prompt_a": LABELS[0], "prompt_b": LABELS[0]}, "two different prompts"),
        (single, {}, "two different prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            evidence(shallow, given, vae, drawings[0][:1], **names)


def test_images_are_sorted_by_what_the_prompt_gains(bundled, vae, drawings):
    pixels, labels = drawings
    wanted = LABELS[2]
    positive, negative, _ = BiGainDiTLabels.execute(bundled, wanted).args
    result = BiGainRankImages.execute(bundled, pixels, vae, TRIALS, 0, positive, negative).args
    images, order, scores, table, fits = result
    empty = len(CLASS_NAMES)
    runner = DiTRunner(load_dit(read_checkpoint(SMALL_DIT)))
    denoiser = runner.denoiser([CLASS_NAMES.index(wanted), empty])
    plan = TrialPlan((TRIALS,), sampler=SpreadGrid())
    expected, chances = [], []
    for sample in pixels:
        latent = (sample * 2 - 1).movedim(-1, 0)
        errors = classify(denoiser, latent[None], ("c", "empty"), plan).rankings[0].table.errors
        gains = (errors[1] - errors[0]).numpy()
        expected.append(gains.mean())
        ahead = gains.mean() / stats.sem(gains) - WRONG
        chances.append(1 / (1 + math.exp(-OFFSET - SLOPE * ahead)))
    assert order == sorted(range(COUNT), key=lambda n: -expected[n])
    assert scores == pytest.approx([expected[n] for n in order], rel=1e-3)
    assert fits == pytest.approx([chances[n] for n in order], rel=1e-2)
    assert min(fits[:2]) > max(fits[2:])
    assert torch.equal(images, pixels[order])
    assert {labels[n] for n in order[:2]} == {wanted}
    assert [line.split(",")[1] for line in table.splitlines()[1:]] == [str(n) for n in order]


def test_one_image_is_the_best_of_its_kind(bundled, vae, drawings):
    positive, negative, _ = BiGainDiTLabels.execute(bundled, LABELS[0]).args
    pixels = drawings[0][:1]
    images, order, scores, _, fits = BiGainRankImages.execute(
        bundled, pixels, vae, 1, 0, positive, negative
    ).args
    assert order == [0] and len(scores) == 1 and torch.equal(images, pixels)
    assert math.isnan(fits[0])


class Clip:
    """Knows the classes of the bundled model by their names, and no others."""

    def __init__(self, model):
        self.model = model

    def tokenize(self, text, disable_weights):
        assert disable_weights
        return text.removeprefix("a photo of a ")

    def encode_from_tokens_scheduled(self, tokens):
        positive, negative, _ = BiGainDiTLabels.execute(self.model, tokens or LABELS[0]).args
        return positive if tokens else negative


def test_a_text_is_as_good_as_its_encoding(bundled, vae, drawings):
    pixels = drawings[0][:2]
    positive, negative, _ = BiGainDiTLabels.execute(bundled, LABELS[1]).args
    expected = BiGainRankImages.execute(bundled, pixels, vae, 2, 0, positive, negative).args
    found = BiGainRankImages.execute(
        bundled, pixels, vae, 2, 0, clip=Clip(bundled), text=f" {LABELS[1]}\n"
    ).args
    assert found[1] == expected[1] == [1, 0] and found[2] == expected[2]


def test_labels_in_the_node_are_as_good_as_prompts(shallow, vae, drawings, drawn_prompts):
    given = {"image": drawings[0][2:3], "vae": vae, "preset": {"preset": "fast"}, "loss": "l2"}
    given |= {"trial_seed": 0}
    expected = BiGainDiffusionClassifier.execute(shallow, drawn_prompts, **given).args
    labels = "\n".join(LABELS)
    found = BiGainDiffusionClassifier.execute(shallow, clip=Clip(shallow), labels=labels, **given)
    assert found.args[3] == expected[3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "got none of them, and no text"),
        ({"prompt": []}, "got prompt, and no text"),
        ({"clip": 1}, "got clip, and no text"),
        ({"text": "a cat"}, "got none of them. Connect the CLIP"),
        ({"prompt": [], "empty_prompt": [], "clip": 1}, "got prompt and empty_prompt and clip"),
    ],
)
def test_one_way_of_saying_what_images_should_show_is_asked_for(given, message):
    with pytest.raises(ValueError, match=message):
        BiGainRankImages.execute(None, None, None, 1, 0, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "got neither"),
        ({"clip": 1}, "got no labels"),
        ({"clip": 1, "prompts": 1, "labels": "cat"}, "got both"),
    ],
)
def test_one_way_of_giving_labels_is_asked_for(given, message):
    with pytest.raises(ValueError, match=f"expected either `prompts`, or `clip`.*{message}"):
        BiGainDiffusionClassifier.execute(None, **given)

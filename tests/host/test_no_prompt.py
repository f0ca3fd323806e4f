"""Whether an image fits any label, by the error without a prompt."""

import math
from dataclasses import replace

import pytest
import torch
from bigain.bigain_core.classification import PLANS, Budget, Ranking, SpreadGrid, TrialPlan
from bigain.bigain_core.classification.results.fit import OFFSET, SLOPE, TRIALS, WRONG
from bigain.bigain_core.comfyui.classifying.latent_classifier import (
    classify_latents,
    encode_images,
    max_calls,
)
from bigain.bigain_core.comfyui.classifying.prompts import encode_prompts
from bigain.bigain_core.comfyui.dit_model import load_dit_model
from bigain.bigain_core.listener import Listener
from bigain.bigain_core.models.checkpoint import BUNDLED_MODEL
from bigain.nodes.classification_nodes import BiGainDiffusionClassifier
from bigain.nodes.dit_nodes import BiGainDiTLabels
from bigain.nodes.sample_images_node import BiGainSampleImages
from scipy import stats

from tests.host.drawn import LABELS

pytestmark = pytest.mark.once

WRONG_NAMES = "pizza\npenguin\nhouse"
PLAN = TrialPlan((4,))


class Counting(Listener):
    def __init__(self):
        self.calls = 0

    def on_calls(self, calls):
        self.calls += calls


@pytest.fixture(scope="module")
def latents(vae, drawings):
    return encode_images(vae, drawings[0][:2])


@pytest.fixture
def shown(vae):
    """What the node says of a held-out cactus (1, 64, 64, 3) among labels."""
    model, (image, *_) = load_dit_model(BUNDLED_MODEL), BiGainSampleImages.execute("cactus").args

    def run(labels):
        prompts = BiGainDiTLabels.execute(model, labels).args[2]
        return BiGainDiffusionClassifier.execute(
            model, prompts, preset={"preset": "fast"}, image=image, vae=vae, loss="l2", trial_seed=0
        )

    return run


@pytest.fixture
def classified(shallow, latents):
    def run(plan, labels="", model=shallow):
        labels, counting = labels or "\n".join(LABELS), Counting()
        prompts = BiGainDiTLabels.execute(model, labels).args[2]
        result = classify_latents(model, latents, prompts, plan, counting)
        assert counting.calls == sum(ranking.spent for ranking in result.rankings)
        assert counting.calls <= len(latents) * max_calls(plan, prompts)
        return result

    return run


def test_the_lead_is_that_over_the_empty_prompt_among_the_others(shallow, latents, classified):
    """The same numbers as where the empty prompt takes part as a label, whatever the plan."""
    prompts = BiGainDiTLabels.execute(shallow, "\n".join(LABELS)).args[2]
    empty = prompts.empty
    together = replace(
        prompts, labels=(*LABELS, "none"), conditionings=(*prompts.conditionings, empty),
        classes=(*LABELS, "none"), empty=None,
    )  # fmt: skip
    even = TrialPlan((TRIALS,), (1,), sampler=SpreadGrid())
    wanted = classify_latents(shallow, latents, together, even)
    for plan in (PLAN, PLANS["fast"], TrialPlan((5, 20))):
        for found, ranking in zip(classified(plan).rankings, wanted.rankings, strict=True):
            errors = ranking.table.errors[[found.best, len(LABELS)]].numpy()
            gains = errors[1] - errors[0]
            over = found.over_no_prompt
            assert over.margin == pytest.approx(gains.mean(), rel=1e-3)
            assert over.standard_error == pytest.approx(stats.sem(gains), rel=1e-3)
            z = gains.mean() / stats.sem(gains)
            assert found.fits == pytest.approx(
                1 / (1 + math.exp(-OFFSET - SLOPE * (z - WRONG))), rel=1e-2
            )


def test_trials_that_the_best_prompt_had_are_not_run_again(classified):
    """The paper's trials are all on the grid, those of `fast` only in part."""
    for plan, shared in ((TrialPlan((5, 20)), True), (PLANS["fast"], False)):
        for found in classified(plan).rankings:
            assert (found.over_no_prompt.calls == TRIALS) == shared
            assert found.over_no_prompt.calls < 2 * TRIALS


def test_images_that_fit_no_label_are_told_from_those_that_do(shown):
    """On the model that this was calibrated on."""
    assert shown("cactus").ui["bigain_race"][0]["none"] is False
    found = shown(WRONG_NAMES)
    race, *_ = found.ui["bigain_race"]
    assert race["none"] is True and race["fits"] < 0.5
    note, *_ = found.ui["bigain_notes"]
    assert note.startswith("perhaps none of these: ") and note in found.ui["text"][0]
    assert found.args[7] == [race["fits"]]


def test_what_is_not_known_is_no_answer():
    ranking = Ranking(None, None)
    assert math.isnan(ranking.fits) and not ranking.fits_none


def test_a_budget_is_kept(classified):
    spent = max(ranking.spent for ranking in classified(PLAN).rankings)
    for limit, known in ((spent, True), (spent - 1, False)):
        budget = replace(PLAN, budget=Budget(calls=int(limit)))
        for ranking in classified(budget).rankings:
            assert ranking.spent <= limit
            assert (ranking.over_no_prompt is not None) == known
    seconds = replace(PLAN, budget=Budget(seconds=1000.0))
    assert all(ranking.over_no_prompt is None for ranking in classified(seconds).rankings)


def test_a_single_label_does_not_win_without_a_word(bundled, vae, drawings):
    prompts = BiGainDiTLabels.execute(bundled, LABELS[0]).args[2]
    shown = BiGainDiffusionClassifier.execute(
        bundled, prompts, preset={"preset": "fast"}, image=drawings[0][:1], vae=vae, loss="l2",
        trial_seed=0,
    ).ui  # fmt: skip
    assert shown["bigain_race"][0]["alone"] is True
    assert f"{LABELS[0]} is the only label" in shown["bigain_notes"][0]


def test_a_text_model_has_the_empty_text():
    class Clip:
        def tokenize(self, text, disable_weights):
            return text

        def encode_from_tokens_scheduled(self, tokens):
            return [[torch.tensor([len(tokens)]), {}]]

    prompts = encode_prompts(Clip(), ("cat", "mouse"), "a {}")
    assert [c[0][0].item() for c in prompts.conditionings] == [5, 7]
    assert prompts.empty[0][0].item() == 0 and len(prompts.encoded) == 3

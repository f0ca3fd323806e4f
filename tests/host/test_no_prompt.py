"""Whether an image fits any label, by the error without a prompt."""

from dataclasses import replace

import pytest
import torch
from bigain.bigain_core.classification import PLANS, Budget, Lead, Ranking, TrialPlan
from bigain.bigain_core.classification.results.summary import fits_none
from bigain.bigain_core.comfyui.classifying.latent_classifier import (
    classify_latents,
    encode_images,
    max_calls,
)
from bigain.bigain_core.comfyui.classifying.prompts import encode_prompts
from bigain.bigain_core.listener import Listener
from bigain.nodes.classification_nodes import BiGainDiffusionClassifier
from bigain.nodes.dit_nodes import BiGainDiTLabels

from benchmarks.data import CLASS_NAMES
from tests.host.drawn import LABELS

pytestmark = pytest.mark.once

DIGITS = "\n".join(name for name in CLASS_NAMES if name.startswith("digit"))
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
def classified(bundled, latents):
    def run(plan, labels=""):
        labels, counting = labels or "\n".join(LABELS), Counting()
        prompts = BiGainDiTLabels.execute(bundled, labels).args[2]
        result = classify_latents(bundled, latents, prompts, plan, counting)
        assert counting.calls == sum(ranking.spent for ranking in result.rankings)
        assert counting.calls <= len(latents) * max_calls(plan, prompts)
        return result

    return run


def test_the_lead_is_that_over_the_empty_prompt_among_the_others(bundled, latents, classified):
    """The same numbers as where the empty prompt takes part as a label."""
    prompts = BiGainDiTLabels.execute(bundled, "\n".join(LABELS)).args[2]
    empty = prompts.empty
    together = replace(
        prompts, labels=(*LABELS, "none"), conditionings=(*prompts.conditionings, empty),
        classes=(*LABELS, "none"), empty=None,
    )  # fmt: skip
    wanted = classify_latents(bundled, latents, together, PLAN)
    for found, ranking in zip(classified(PLAN).rankings, wanted.rankings, strict=True):
        lead = ranking.lead(found.best, len(LABELS))
        assert found.over_no_prompt.margin == pytest.approx(lead.margin, rel=1e-3)
        assert found.over_no_prompt.trials == 4


@pytest.mark.parametrize("preset", ["fast", "paper [5, 20]"])
def test_images_that_fit_no_label_are_told_from_those_that_do(classified, preset):
    plan = PLANS[preset]
    assert not any(map(fits_none, classified(plan).rankings))
    assert all(map(fits_none, classified(plan, DIGITS).rankings))


def test_two_trials_speak_against_a_label_only_if_no_prompt_is_ahead():
    lead = Lead(0.1, 1.0, 0.4, 0.5, 2)
    found = {
        (margin, trials): fits_none(
            Ranking(None, None, over_no_prompt=replace(lead, margin=margin, trials=trials))
        )
        for margin in (-0.1, 0.1, 1.9, 2.1)
        for trials in (2, 5)
    }
    assert {pair for pair, none in found.items() if none} == {
        (-0.1, 2), (-0.1, 5), (0.1, 5), (1.9, 5),
    }  # fmt: skip
    assert not fits_none(Ranking(None, None))


def test_a_budget_is_kept(classified):
    (spent,) = {ranking.spent for ranking in classified(PLAN).rankings}
    assert spent == 4 * len(LABELS) + 4
    for limit, trials in ((spent - 1, 3), (spent - 3, None)):
        budget = replace(PLAN, budget=Budget(calls=int(limit)))
        for ranking in classified(budget).rankings:
            lead = ranking.over_no_prompt
            assert ranking.spent <= limit and (lead and lead.trials) == trials
    seconds = replace(PLAN, budget=Budget(seconds=1000.0))
    assert all(ranking.over_no_prompt is None for ranking in classified(seconds).rankings)


def test_the_node_says_so(bundled, vae, drawings):
    prompts = BiGainDiTLabels.execute(bundled, DIGITS).args[2]
    shown = BiGainDiffusionClassifier.execute(
        bundled, prompts, preset={"preset": "fast"}, image=drawings[0][:1], vae=vae, loss="l2",
        trial_seed=0,
    ).ui  # fmt: skip
    assert shown["bigain_race"][0]["none"] is True
    assert "perhaps none of these" in shown["bigain_notes"][0]
    assert shown["bigain_notes"][0] in shown["text"][0]


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

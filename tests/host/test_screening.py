"""A quicker model that screens the prompts, and results that are gone on with."""

import pytest
import torch
from bigain.bigain_core.classification import Budget, SpreadGrid, TrialPlan
from bigain.bigain_core.comfyui.classifying.latent_classifier import Screener, classify_latents

from tests.host.compressing import merge
from tests.host.families import NAMED
from tests.host.ranking import Calls, some_latents, some_prompts

PLAN = TrialPlan((1, 3), (3, 1), sampler=SpreadGrid())


def test_a_screening_model_rules_out_and_the_model_decides():
    case = NAMED["sd15"]
    latents, prompts, calls = some_latents(case), some_prompts(case, 6), Calls()
    quick = merge(case.model)
    plan = TrialPlan((2, 4), (2, 1), sampler=SpreadGrid())
    result = classify_latents(
        case.model, latents, prompts, plan, calls, screener=Screener(quick, 3, 2)
    )
    cheap_plan = TrialPlan((3,), (1,), sampler=SpreadGrid())
    cheap = classify_latents(quick, latents, prompts, cheap_plan)
    plain = classify_latents(case.model, latents, prompts, TrialPlan((4,), (1,),
                             sampler=SpreadGrid()))  # fmt: skip
    for ranking, first, second in zip(result.rankings, cheap.rankings, plain.rankings, strict=True):
        left = sorted(first.ranked()[:2])
        assert torch.equal(ranking.screening.table.errors, first.table.errors)
        assert (ranking.table.trials > 0).nonzero()[:, 0].tolist() == left
        assert ranking.best == min(left, key=lambda k: second.table.mean_errors[k].item())
        torch.testing.assert_close(
            ranking.table.errors[left], second.table.errors[left], rtol=1e-6, atol=0
        )
        assert 0 < ranking.provenance.cost < 1, "a compressed call counts less"
    assert sum(calls.counts) == 2 * (6 * 3 + 2 * 4) and result.plan == plan


def test_screening_by_time_leaves_the_first_trial_to_the_model():
    case = NAMED["sd15"]
    plan = TrialPlan((2, 4), (2, 1), sampler=SpreadGrid(), budget=Budget(seconds=1e-6))
    result = classify_latents(
        case.model, some_latents(case), some_prompts(case, 4), plan,
        screener=Screener(merge(case.model), 2, 2),
    )  # fmt: skip
    for ranking in result.rankings:
        assert ranking.screening.table.errors.shape[1] == 2 and ranking.table.errors.shape[1] == 1
    assert result.plan == plan


def test_a_screening_model_with_other_latents_is_refused():
    sd15, sdxl = NAMED["sd15"], NAMED["sdxl"]
    with pytest.raises(ValueError, match="got SDXL latents for SD15"):
        classify_latents(
            sd15.model, some_latents(sd15), some_prompts(sd15), PLAN,
            screener=Screener(sdxl.model, 1, 1),
        )  # fmt: skip


@pytest.mark.parametrize("screened", [False, True])
def test_going_on_from_a_result_costs_the_new_trials_only(screened):
    case = NAMED["sd15"]
    latents, prompts, calls = some_latents(case), some_prompts(case, 5), Calls()
    screener = Screener(merge(case.model), 2, 3) if screened else None
    short, long = (TrialPlan((n,), (1,), sampler=SpreadGrid()) for n in (2, 5))
    begun = classify_latents(case.model, latents, prompts, short, screener=screener)
    went_on = classify_latents(
        case.model, latents, prompts, long, calls, screener=screener, previous=begun
    )
    at_once = classify_latents(case.model, latents, prompts, long, screener=screener)
    assert sum(calls.counts) == 2 * (5 - 2) * (3 if screened else 5)
    for ours, theirs in zip(went_on.rankings, at_once.rankings, strict=True):
        assert torch.equal(ours.table.errors.nan_to_num(-1), theirs.table.errors.nan_to_num(-1))
        assert ours.order == theirs.order


@pytest.mark.parametrize("screened", [False, True])
def test_a_result_of_something_else_is_no_beginning(screened):
    case = NAMED["sd15"]
    latents, prompts = some_latents(case), some_prompts(case, 4)
    options = {"screener": Screener(merge(case.model), 1, 2) if screened else None}
    begun = classify_latents(case.model, latents, prompts, PLAN, **options)
    options["previous"] = begun
    with pytest.raises(ValueError, match="same 1 images, got one of 2"):
        classify_latents(case.model, latents[:1], prompts, PLAN, **options)
    with pytest.raises(ValueError, match="previous result of the same images"):
        classify_latents(case.model, latents + 1, prompts, PLAN, **options)
    with pytest.raises(ValueError, match="previous result of the same seed, got seed 0 for 1"):
        other = TrialPlan((1, 3), (3, 1), seed=1, sampler=SpreadGrid())
        classify_latents(case.model, latents, prompts, other, **options)

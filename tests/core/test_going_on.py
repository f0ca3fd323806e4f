"""Going on from a result, stopping at a budget, screening, masks, and answers that are no numbers.

The model is one of independent errors: each prompt is off by a number of its own at each timestep.
"""

import pytest
import torch

from benchmarks.oracle import GaussianWorld, OracleDenoiser
from bigain_core.classification import (
    PLANS,
    Budget,
    Screening,
    Sequential,
    SpreadGrid,
    TrialPlan,
    classify,
)
from bigain_core.classification.results.result_table import result_table
from tests.core.classifying import SAMPLERS, SCHEDULE, classify_screened, same

WORLD = GaussianWorld.random(20, seed=1, shift=0.7)
IMAGES, _ = WORLD.images(3, seed=2)
LABELS = [f"class {k}" for k in range(20)]


class Counting:
    """The oracle, which notes what it is asked."""

    def __init__(self, world=WORLD, order=None):
        self.inner = OracleDenoiser(world, SCHEDULE)
        self.schedule, self.asked = SCHEDULE, []
        self.order = order or list(range(len(world.means)))

    def __call__(self, latent, trial, prompts):
        key = latent.sum().item(), trial.level.timestep, trial.noise.sum().item()
        self.asked += [(*key, k) for k in prompts]
        return self.inner(latent, trial, [self.order[k] for k in prompts])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_more_trials_go_on_and_end_like_a_run_from_the_start(sampler):
    few = TrialPlan((4, 8), (8, 1), sampler=sampler)
    many = TrialPlan((4, 8, 12, 16), sampler=sampler, rule=Sequential(1e-9))
    denoiser, whole = Counting(), Counting()
    first = classify(denoiser, IMAGES, LABELS, few)
    second = classify(denoiser, IMAGES, LABELS, many, previous=first)
    same(second, classify(whole, IMAGES, LABELS, many))
    assert len(set(denoiser.asked)) == len(denoiser.asked), "nothing is asked twice"
    assert len(denoiser.asked) > first.calls
    assert second.calls == len(whole.asked)


def test_a_published_run_is_gone_on_with():
    denoiser, whole = Counting(), Counting()
    plan = TrialPlan((5, 20, 40), sampler=SpreadGrid(), rule=Sequential(1e-3))
    first = classify(denoiser, IMAGES, LABELS, TrialPlan())
    asked = len(denoiser.asked)
    second = classify(denoiser, IMAGES, LABELS, plan, previous=first)
    same(second, classify(whole, IMAGES, LABELS, plan))
    assert len(set(denoiser.asked)) == len(denoiser.asked)
    assert second.calls - (len(denoiser.asked) - asked) >= 3 * 20 * 5, (
        "all of the first elimination step"
    )


def test_the_same_plan_again_asks_nothing():
    denoiser = Counting()
    first = classify(denoiser, IMAGES, LABELS, PLANS["balanced"])
    asked = len(denoiser.asked)
    same(classify(denoiser, IMAGES, LABELS, PLANS["balanced"], previous=first), first)
    assert len(denoiser.asked) == asked


@pytest.mark.parametrize(
    "change",
    [
        lambda images, labels, plan: (images + 1, labels, plan, 0),
        lambda images, labels, plan: (images, labels, plan, 1),
        lambda images, labels, plan: (images[:2], labels, plan, 0),
        lambda images, labels, plan: (images, [*labels[:-1], "other"], plan, 0),
        lambda images, labels, plan: (images, labels, TrialPlan((5,), seed=1), 0),
        lambda images, labels, plan: (images, labels, TrialPlan((5,), loss="l1"), 0),
        lambda images, labels, plan: (images, labels, TrialPlan((5,), weighting="x0"), 0),
    ],
)
def test_a_result_of_something_else_is_refused(change):
    plan = TrialPlan((5,))
    first = classify(Counting(), IMAGES, LABELS, plan)
    images, labels, plan, number = change(IMAGES, LABELS, plan)
    with pytest.raises(ValueError, match="expected a previous result"):
        classify(Counting(), images, labels, plan, number, previous=first)


def test_a_result_of_another_model_is_refused():
    plan = TrialPlan((5,))
    model = {"model": "SD 1", "weights": "1a"}
    first = classify(Counting(), IMAGES, LABELS, plan, model=model)
    assert [ranking.provenance.model for ranking in first.rankings] == [model] * 3
    same(classify(Counting(), IMAGES, LABELS, plan, model=model, previous=first), first)
    others = {
        'same model, got model "SD 1" for "SD 2"': {"model": "SD 2"},
        r"same weights, got other weights \(another checkpoint": {"weights": "2b"},
        "same model and weights, got .*; other weights": {"model": "SD 2", "weights": "2b"},
    }
    for message, change in others.items():
        with pytest.raises(ValueError, match=f"previous result of the {message}") as error:
            classify(Counting(), IMAGES, LABELS, plan, model=model | change, previous=first)
        assert "1a" not in str(error.value) and "2b" not in str(error.value)
    with pytest.raises(ValueError, match='got model "SD 1" for none; other weights'):
        classify(Counting(), IMAGES, LABELS, plan, previous=first)


def test_a_screening_of_another_model_is_refused():
    run = (Counting(), Counting(), IMAGES, LABELS, TrialPlan((5,)))
    options = {"keep": 6, "name": {"model": "large"}, "cheap_name": {"model": "small"}}
    first = classify_screened(*run, **options)
    assert first.rankings[0].screening.provenance.model == {"model": "small"}
    same(classify_screened(*run, **options, previous=first), first)
    with pytest.raises(ValueError, match='same model, got model "small" for "tiny"'):
        classify_screened(*run, **options | {"cheap_name": {"model": "tiny"}}, previous=first)


def test_thousands_of_prompts_are_asked_in_parts():
    """Their answers would fill a device; the errors are the same."""
    world = GaussianWorld.random(700, seed=4, shift=1.0, size=32)
    image, _ = world.images(1, seed=5)
    names = [str(k) for k in range(700)]
    denoiser, sizes = OracleDenoiser(world, SCHEDULE), []

    class Parts(Counting):
        def __call__(self, latent, trial, prompts):
            sizes.append(len(prompts))
            return denoiser(latent, trial, prompts)

    found = classify(Parts(), image, names, TrialPlan((2,), (1,)))
    assert max(sizes) <= 256 and sum(sizes) == found.calls == 1400
    whole = classify(Parts(), image, names[:100], TrialPlan((2,), (1,)))
    assert torch.equal(found.rankings[0].table.errors[:100], whole.rankings[0].table.errors)
    assert len(result_table(found).splitlines()) == 701
    assert len(result_table(found, limit=50).splitlines()) == 51
    assert result_table(found).startswith(result_table(found, limit=50))


@pytest.mark.parametrize("name", ["balanced", "sequential", "paper [5, 20]"])
def test_neither_order_of_prompts_nor_of_images_matters(name):
    whole = classify(Counting(), IMAGES, LABELS, PLANS[name])
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [LABELS[k] for k in order]
    other = classify(Counting(order=order), IMAGES, shuffled, PLANS[name])
    for one, two in zip(whole.rankings, other.rankings, strict=True):
        assert [LABELS[k] for k in one.order] == [shuffled[k] for k in two.order]
        assert one.table.specs == two.table.specs
        assert torch.equal(one.table.errors[order].nan_to_num(-1), two.table.errors.nan_to_num(-1))
        assert torch.equal(one.stage[order], two.stage)
        assert one.confidence == pytest.approx(two.confidence, abs=1e-12)
    alone = classify(Counting(), IMAGES[2:], LABELS, PLANS[name], first_image=2)
    assert torch.equal(
        alone.rankings[0].table.errors.nan_to_num(-1), whole.rankings[2].table.errors.nan_to_num(-1)
    )


def test_a_budget_of_calls_is_kept():
    for calls in (20, 50, 101, 119, 131):
        plan = TrialPlan(
            (5, 8, 11, 14), sampler=SpreadGrid(), rule=Sequential(), budget=Budget(calls)
        )
        for ranking in classify(Counting(), IMAGES, LABELS, plan).rankings:
            assert ranking.calls <= calls
            shared = ranking.table.trials == ranking.table.trials.max()
            assert shared[ranking.best], "the best is one of those with all trials"
            assert ranking.calls > calls - 20 or len(ranking.order) == 1 or shared.sum() == 1


def test_the_first_trial_takes_place_whatever_the_budget():
    plan = TrialPlan((5, 20), budget=Budget(calls=1))
    ranking = classify(Counting(), IMAGES[:1], LABELS, plan).rankings[0]
    assert ranking.table.trials.tolist() == [1] * 20
    assert ranking.best == int(ranking.table.errors[:, 0].argmin())


def test_a_budget_of_seconds_ends_the_trials():
    now = iter(range(0, 1000, 2))  # every reading of the clock takes two seconds
    plan = TrialPlan((20,), budget=Budget(seconds=15.0))
    found = classify(Counting(), IMAGES[:1], LABELS, plan, clock=lambda: next(now))
    assert 3 <= found.rankings[0].table.errors.shape[1] <= 8
    free = classify(Counting(), IMAGES[:1], LABELS, TrialPlan((20,)), clock=lambda: 0)
    assert free.rankings[0].table.errors.shape[1] == 20


def test_screening_leaves_the_decision_to_the_other_model():
    """The cheap model is right about who is hopeless and wrong about who is best."""
    cheap, plain = Counting(), Counting()
    swapped = WORLD.means.clone()
    truth = classify(plain, IMAGES, LABELS, TrialPlan()).rankings[0].order
    swapped[truth[:2]] = WORLD.means[[truth[1], truth[0]]]
    cheap = Counting(GaussianWorld(swapped, WORLD.variances))
    plain = Counting()
    plan = TrialPlan((5, 20), (4, 1))
    found = classify_screened(cheap, plain, IMAGES[:1], LABELS, plan, 5, keep=6, cost=0.5)
    ranking = found.rankings[0]
    assert ranking.screening.best == truth[1] and ranking.best == truth[0]
    kept = sorted(ranking.screening.ranked()[:6])
    assert sorted({k for *_, k in plain.asked}) == kept
    alone = classify(Counting(), IMAGES[:1], LABELS, plan).rankings[0]
    torch.testing.assert_close(ranking.table.errors[kept][:, :5], alone.table.errors[kept][:, :5])
    assert len(cheap.asked) == 100 and ranking.calls == len(plain.asked) == 6 * 5 + 4 * 15
    assert ranking.spent == 90 + 0.5 * 100
    assert ranking.saved == 20 * 20 - 140


def test_those_that_were_screened_out_come_last():
    found = classify_screened(Counting(), Counting(), IMAGES, LABELS, PLANS["balanced"], keep=6)
    for ranking in found.rankings:
        quick = ranking.screening.ranked()
        for kind in ("paired", "stage", "raw", "paper_code"):
            order = ranking.ranked(kind)
            assert sorted(order) == list(range(20))
            assert set(order[:6]) == set(quick[:6])
        assert ranking.ranked()[6:] == quick[6:]
        assert 0 <= ranking.confidence <= 1
        assert ranking.lead(ranking.best, quick[-1]).margin > 0
    assert len(result_table(found).splitlines()) == 1 + 3 * 20


def test_screening_of_as_many_as_there_are_does_nothing():
    plan = PLANS["balanced"]
    found = classify_screened(Counting(), Counting(), IMAGES, LABELS, plan, keep=20)
    same(found, classify(Counting(), IMAGES, LABELS, plan))
    assert found.screening is found.rankings[0].screening is None


def test_going_on_takes_over_the_screening():
    cheap, plain = Counting(), Counting()
    plan, more = TrialPlan((4, 8), (3, 1), sampler=SpreadGrid()), PLANS["balanced"]
    first = classify_screened(cheap, plain, IMAGES, LABELS, plan, keep=6)
    asked = len(cheap.asked)
    second = classify_screened(cheap, plain, IMAGES, LABELS, more, keep=6, previous=first)
    assert len(cheap.asked) == asked, "the run from the start alone asks again"
    same(second, classify_screened(cheap, Counting(), IMAGES, LABELS, more, keep=6))
    assert len(cheap.asked) == 2 * asked
    assert len(set(plain.asked)) == len(plain.asked)


class Halves:
    """Prompt 0 is right in the upper half and off by 1 below, prompt 1 the other way round."""

    schedule = SCHEDULE

    def __call__(self, latent, trial, prompts):
        off = torch.zeros(2, *latent.shape)
        off[0, :, 4:], off[1, :, :4] = 1.0, 1.0
        return latent + off[list(prompts)] * trial.level.noise / trial.level.signal


def test_a_mask_says_where_to_look():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :] = 1.0
    latent = torch.zeros(1, 3, 8, 8)
    for region, errors in ((mask, [0.0, 1.0]), (1 - mask, [1.0, 0.0]), (mask + 0.5, [0.25, 0.75])):
        found = classify(Halves(), latent, ["up", "down"], TrialPlan((5,)), masks=region)
        expected = torch.tensor(errors, dtype=torch.float64)[:, None].expand(2, 5)
        torch.testing.assert_close(found.rankings[0].table.errors, expected, atol=1e-5, rtol=1e-5)
    whole = classify(Halves(), latent, ["up", "down"], TrialPlan((5,)))
    assert whole.rankings[0].table.errors.flatten().tolist() == pytest.approx([0.5] * 10, abs=1e-5)


@pytest.mark.parametrize(
    "masks", [torch.zeros(1, 1, 8, 8), -torch.ones(1, 1, 8, 8), torch.ones(2, 1, 8, 8)]
)
def test_masks_that_leave_nothing_are_refused(masks):
    with pytest.raises(ValueError, match="expected (a mask for each|masks of at least 0)"):
        classify(Halves(), torch.zeros(1, 3, 8, 8), ["a", "b"], TrialPlan((5,)), masks=masks)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_model_that_gives_no_number_is_named(bad):
    class Broken(Counting):
        def __call__(self, latent, trial, prompts):
            clean = super().__call__(latent, trial, prompts)
            if trial.level.timestep == 725:
                clean[list(prompts).index(13), 7] = bad
            return clean

    message = "from SD 1, got NaN or infinity for the prompt 'class 13' at timestep 725"
    with pytest.raises(ValueError, match=message):
        classify(Broken(), IMAGES, LABELS, TrialPlan(), model={"model": "SD 1"})
    with pytest.raises(ValueError, match="from the model, got NaN"):
        classify(Broken(), IMAGES, LABELS, TrialPlan())


def test_screening_keeps_someone():
    with pytest.raises(ValueError, match="expected screening to keep a prompt, got 0"):
        Screening(classify(Counting(), IMAGES, LABELS, TrialPlan()), keep=0)

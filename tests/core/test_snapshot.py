"""How the prompts stand during a classification, against what the result says at its end."""

import math

import pytest
import torch

from bigain_core.classification import (
    PLANS,
    NoiseSchedule,
    Screening,
    TrialPlan,
    alphas_cumprod,
    classify,
)

LABELS = tuple("abcdefgh")


class Tabled:
    """Noise that is off by table[k][t] for prompt k at timestep t."""

    schedule = NoiseSchedule.variance_preserving(alphas_cumprod("scaled-linear"))

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        spread = 0.3 * torch.rand(len(LABELS), 1000, generator=generator)
        self.table = (spread + 0.1 * torch.arange(len(LABELS))[:, None]).tolist()
        self.calls = 0

    def __call__(self, latent, trial, prompts):
        self.calls += len(prompts)
        off = torch.tensor([self.table[k][trial.timestep] for k in prompts], dtype=torch.float64)
        off = off.view(-1, *[1] * latent.ndim).expand(-1, *latent.shape)
        return latent - trial.level.noise / trial.level.signal * off


def raced(plan, images=1, denoiser=None, **options):
    """Standings, each with the evaluations so far, and the result."""
    denoiser, told = denoiser or Tabled(), []

    def tell(snapshot):
        told.append((snapshot, snapshot.behind, snapshot.order, denoiser.calls))

    latents = torch.zeros(images, 2, 4, 4)
    return told, classify(denoiser, latents, LABELS, plan, on_trial=tell, **options)


@pytest.mark.parametrize("plan", [TrialPlan(), *PLANS.values()], ids=["default", *PLANS])
def test_listening_changes_nothing(plan):
    _, result = raced(plan)
    silent = classify(Tabled(), torch.zeros(1, 2, 4, 4), LABELS, plan)
    heard, unheard = (found.rankings[0].errors.nan_to_num() for found in (result, silent))
    assert torch.equal(heard, unheard)


@pytest.mark.parametrize("plan", [TrialPlan(), PLANS["balanced"]], ids=["paper", "balanced"])
def test_the_last_standing_is_the_result(plan):
    told, result = raced(plan)
    ranking = result.rankings[0]
    snapshot, behind, order, calls = told[-1]
    assert len(told) == len(ranking.specs) and calls == ranking.calls
    assert order[0] == ranking.best
    for prompt in range(len(LABELS)):
        lead = ranking.lead(ranking.best, prompt)
        assert behind[prompt] == pytest.approx(lead.margin, abs=1e-12)


def test_one_word_per_trial_and_image():
    told, result = raced(TrialPlan((2, 6), keep=(3, 1)), images=2)
    assert [snapshot.image for snapshot, *_ in told] == [0] * 6 + [1] * 6
    assert [len(snapshot.alive) for snapshot, *_ in told[:6]] == [8, 8, 3, 3, 3, 3]


def test_who_was_dropped_comes_last_and_keeps_its_distance():
    told, _ = raced(TrialPlan((2, 6), keep=(3, 1)))
    for snapshot, behind, order, _ in told[2:]:
        assert set(order[:3]) == set(snapshot.alive)
        assert behind[order[3]] <= behind[order[7]]
    dropped = told[-1][2][3:]
    table = Tabled().table
    snapshot, behind, order, _ = told[-1]
    first_two = [draw.timestep for draw in snapshot.specs[:2]]
    for prompt in dropped:
        pairs = [table[prompt][t] ** 2 - table[order[0]][t] ** 2 for t in first_two]
        assert behind[prompt] == pytest.approx(sum(pairs) / 2, rel=1e-5)


def test_what_is_left_is_exact_for_lists_and_a_bound_for_rules():
    told, result = raced(TrialPlan((2, 6), keep=(3, 1)))
    for snapshot, *_, calls in told:
        assert snapshot.most_left == result.rankings[0].calls - calls
    told, result = raced(PLANS["balanced"])
    left = [snapshot.most_left for snapshot, *_ in told]
    assert left == sorted(left, reverse=True)
    for snapshot, *_, calls in told:
        assert snapshot.most_left >= result.rankings[0].calls - calls


def test_prompts_that_a_screening_model_ruled_out_were_never_tried():
    told, _ = raced(TrialPlan((4,)), screening=Screening(Tabled(1), trials=2, keep=3))
    assert [len(snapshot.alive) for snapshot, *_ in told] == [8, 8, 3, 3, 3, 3]
    _, behind, order, _ = told[-1]
    assert sorted(order[3:]) == sorted(k for k in range(8) if math.isnan(behind[k]))
    assert len(order[3:]) == 5

"""How the prompts stand during a classification, against what the result says at its end."""

import math

import pytest
import torch

from bigain_core.classification import PLANS, TrialPlan, classify
from bigain_core.listener import Listener
from tests.core.classifying import Tabled, classify_screened

LABELS = tuple("abcdefgh")


def table(seed=0):
    generator = torch.Generator().manual_seed(seed)
    spread = 0.3 * torch.rand(len(LABELS), 1000, generator=generator)
    return spread + 0.1 * torch.arange(len(LABELS))[:, None]


class Told(Listener):
    """Snapshots, each with the evaluations so far."""

    def __init__(self, denoiser):
        self.denoiser, self.told = denoiser, []

    def on_trial(self, snapshot):
        self.told.append((snapshot, snapshot.behind, snapshot.order, self.denoiser.asked))


def raced(plan, images=1):
    """Snapshots and the result."""
    denoiser = Tabled(table())
    listener = Told(denoiser)
    latents = torch.zeros(images, 2, 4, 4)
    return listener.told, classify(denoiser, latents, LABELS, plan, listener=listener)


@pytest.mark.parametrize("plan", [TrialPlan(), *PLANS.values()], ids=["default", *PLANS])
def test_listening_changes_nothing(plan):
    _, result = raced(plan)
    silent = classify(Tabled(table()), torch.zeros(1, 2, 4, 4), LABELS, plan)
    heard, unheard = (found.rankings[0].table.errors.nan_to_num() for found in (result, silent))
    assert torch.equal(heard, unheard)


@pytest.mark.parametrize("plan", [TrialPlan(), PLANS["balanced"]], ids=["paper", "balanced"])
def test_the_last_standing_is_the_result(plan):
    told, result = raced(plan)
    ranking = result.rankings[0]
    snapshot, behind, order, calls = told[-1]
    assert len(told) == len(ranking.table.specs) and calls == ranking.calls
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
    noise = table().tolist()
    snapshot, behind, order, _ = told[-1]
    first_two = [draw.timestep for draw in snapshot.table.specs[:2]]
    for prompt in dropped:
        pairs = [noise[prompt][t] ** 2 - noise[order[0]][t] ** 2 for t in first_two]
        assert behind[prompt] == pytest.approx(sum(pairs) / 2, rel=1e-5)


def test_what_is_left_is_exact_for_lists_and_a_bound_for_rules():
    told, result = raced(TrialPlan((2, 6), keep=(3, 1)))
    for snapshot, *_, calls in told:
        assert snapshot.max_calls_left == result.rankings[0].calls - calls
    told, result = raced(PLANS["balanced"])
    left = [snapshot.max_calls_left for snapshot, *_ in told]
    assert left == sorted(left, reverse=True)
    for snapshot, *_, calls in told:
        assert snapshot.max_calls_left >= result.rankings[0].calls - calls


def test_prompts_that_a_screening_model_ruled_out_were_never_tried():
    cheap, latents = Tabled(table(1)), torch.zeros(1, 2, 4, 4)
    listener = Told(cheap)
    classify_screened(cheap, Tabled(table()), latents, LABELS, TrialPlan((4,)), 2, 3,
                      listener=listener)  # fmt: skip
    told = listener.told
    assert [len(snapshot.alive) for snapshot, *_ in told] == [8, 8, 3, 3, 3, 3]
    _, behind, order, _ = told[-1]
    assert sorted(order[3:]) == sorted(k for k in range(8) if math.isnan(behind[k]))
    assert len(order[3:]) == 5

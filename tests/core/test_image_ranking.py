"""Images ranked for one prompt, and evidence as an image."""

import pytest
import torch

from benchmarks.noise_schedules import alphas_cumprod, noised, variance_preserving
from bigain_core.classification import (
    SpreadGrid,
    TrialPlan,
    trial_noise,
    trial_timesteps,
)
from bigain_core.classification.evidence.evidence_images import evidence_images, evidence_plane
from bigain_core.classification.evidence.image_ranking import rank_images
from tests.core.labelled import csv_rows

SHAPE = (2, 4, 4)
PLAN = TrialPlan((5,), seed=3, sampler=SpreadGrid())


class Toy:
    """Prompt 0 expects `wanted` in an image, prompt 1 nothing; both see through a bit of noise."""

    schedule = variance_preserving(alphas_cumprod("linear"))

    def __init__(self, wanted):
        self.expected = wanted, torch.zeros(SHAPE)

    def __call__(self, latent, trial, prompts):
        return torch.stack([self.expected[k] + 0.1 * noised(latent, trial) for k in prompts])


@pytest.fixture
def wanted(randn):
    return randn(*SHAPE)


@pytest.fixture
def latents(wanted, randn):
    """Empty, as wanted, half of it, something else."""
    return torch.stack([torch.zeros(SHAPE), wanted, 0.6 * wanted, randn(*SHAPE, seed=9)])


def test_gains_are_differences_to_the_empty_prompt(latents, wanted):
    found = rank_images(Toy(wanted), latents, PLAN)
    schedule = Toy.schedule
    numbers = {t: n for n, t in enumerate(trial_timesteps((5, 20))[0])}
    for trial, spec in enumerate(found.specs):
        signal, noise = schedule.signal[spec.timestep], schedule.noise[spec.timestep]
        eps = trial_noise(SHAPE, 3, 0, numbers[spec.timestep])  # that of image 0, for all
        for image, latent in enumerate(latents.double()):
            blurred = 0.1 * (signal * latent + noise * eps)
            errors = [
                ((signal / noise * (e + blurred - latent)) ** 2).mean() for e in (0 * eps, wanted)
            ]
            gain = (errors[0] - errors[1]).item()
            assert found.gains[image, trial].item() == pytest.approx(gain, rel=1e-4, abs=1e-6)


def test_an_image_that_is_easy_under_any_prompt_does_not_win(latents, wanted):
    found = rank_images(Toy(wanted), latents, PLAN)
    assert found.order[:2] == [1, 2]
    assert found.scores[0] < 0 < found.scores[1]


def test_the_table_lists_images_from_the_best(latents, wanted):
    found = rank_images(Toy(wanted), latents, PLAN)
    rows = csv_rows(found.table())
    assert [int(row["image"]) for row in rows] == found.order
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    behind = [scores[0] - score for score in scores]
    assert [float(row["behind_best"]) for row in rows] == pytest.approx(behind, rel=1e-2)
    assert float(rows[0]["standard_error"]) == 0 < float(rows[1]["standard_error"])


def test_one_trial_has_no_standard_error(latents, wanted):
    found = rank_images(Toy(wanted), latents, TrialPlan((1,), sampler=SpreadGrid()))
    assert found.behind_best()[1].isnan().all()
    assert found.table().splitlines()[1].endswith(",nan")


@pytest.mark.parametrize("shape", [(4, 6, 8), (3, 2, 6, 8)])
def test_a_plane_keeps_the_sum(randn, shape):
    evidence = randn(*shape).double()
    plane = evidence_plane(evidence)
    assert plane.shape == (6, 8)
    assert plane.sum().item() == pytest.approx(evidence.sum().item(), abs=1e-12)


@pytest.fixture
def halves():
    """For on the left, against on the right."""
    return torch.tensor([1.0, 1.0, -2.0, -2.0]).expand(4, 4)


def test_red_is_for_and_blue_against(halves):
    images = torch.full((2, 8, 8, 3), 0.5)
    overlay, mask = evidence_images([halves, -halves], images)
    assert overlay.shape == (2, 8, 8, 3) and mask.shape == (2, 8, 8)
    for sample, left in zip(overlay, (True, False), strict=True):
        red = sample[..., 0] > sample[..., 2]
        assert red[:, :3].all() == left and red[:, 5:].all() != left
    torch.testing.assert_close(mask[0, :, :3], torch.full((8, 3), 0.5))
    torch.testing.assert_close(mask[1, :, 5:], torch.ones(8, 3))
    assert mask[0, :, 5:].max() == 0 and mask[1, :, :3].max() == 0
    assert overlay.min() >= 0 and overlay.max() <= 1


def test_no_evidence_is_grey():
    overlay, mask = evidence_images([torch.zeros(4, 4)], torch.rand(1, 8, 8, 3))
    assert torch.equal(overlay[..., 0], overlay[..., 1])
    assert torch.equal(overlay[..., 0], overlay[..., 2])
    assert mask.max() == 0


def test_smoothing_takes_means_over_squares():
    plane = torch.zeros(5, 5)
    plane[2, 2] = 9.0
    _, single = evidence_images([plane], torch.zeros(1, 5, 5, 3))
    _, spread = evidence_images([plane], torch.zeros(1, 5, 5, 3), smoothing=3)
    assert single.count_nonzero() == 1
    assert spread.count_nonzero() == 9 and spread[0, 1:4, 1:4].unique().numel() == 1

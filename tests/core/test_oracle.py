"""The classifier in a world where the best network and all likelihoods are known."""

from collections import Counter

import pytest
import torch
from scipy.stats import t as student

from benchmarks.frequency_bands import band_differences, cosine_transform, cosines
from benchmarks.noise_schedules import alphas_cumprod, variance_preserving
from benchmarks.oracle import GaussianWorld, OracleDenoiser
from benchmarks.theorem_1 import noise_change
from bigain_core.classification import (
    PLANS,
    AdaptiveTimes,
    Blocks,
    Certified,
    ErrorSource,
    NoiseSchedule,
    SpreadGrid,
    TrialPlan,
    UniformTimes,
    average_precision,
    classify,
)
from bigain_core.classification import errors as errors_module
from bigain_core.classification.elimination.elimination_rules import EliminationStep
from bigain_core.classification.results.posterior import posterior

ALPHAS = alphas_cumprod("scaled-linear")
STABLE_DIFFUSION = variance_preserving(ALPHAS)
LOG_SNR = torch.linspace(18, -18, 1000, dtype=torch.float64)
WIDE = variance_preserving(LOG_SNR.sigmoid())


def labels(count):
    return [str(k) for k in range(count)]


def found_in(world, images, plan, schedule=STABLE_DIFFUSION):
    """What the best network of a world finds in its images."""
    names = labels(len(world.means))
    return classify(OracleDenoiser(world, schedule), images, names, plan)


@pytest.fixture
def no_noise(monkeypatch):
    """Expectations over noise: its own error is the same for all classes and drops out."""
    monkeypatch.setattr(errors_module, "trial_noise", lambda shape, *key: torch.zeros(shape))


@pytest.mark.parametrize(
    ("schedule", "nats", "slope"), [(WIDE, 0.001, 1e-4), (STABLE_DIFFUSION, 0.35, 0.02)]
)
def test_with_all_trials_the_elbo_is_the_likelihood(no_noise, schedule, nats, slope):
    world = GaussianWorld.random(6, seed=1, shift=0.8)
    images, _ = world.images(2, seed=2)
    plan = TrialPlan((1000,), (1,), weighting="elbo")
    found = found_in(world, images, plan, schedule)
    true = world.log_likelihoods(images)
    true = true - true.mean(1, keepdim=True)
    ours = torch.stack(
        [-ranking.table.centred(ranking.table.errors) * 512 for ranking in found.rankings]
    )
    ours = ours - ours.mean(1, keepdim=True)
    assert (ours - true).abs().max() < nats
    assert ((ours * true).sum() / true.square().sum()).item() == pytest.approx(1, abs=slope)
    assert torch.corrcoef(torch.stack([ours.flatten(), true.flatten()]))[0, 1] > 0.9999
    assert found.best == true.argmax(1).tolist()
    for ranking, likelihoods in zip(found.rankings, true, strict=True):
        bits = likelihoods.log_softmax(0) / torch.tensor(2.0).log()
        torch.testing.assert_close(posterior(ranking.table), bits, atol=3 * nats, rtol=slope)


def test_the_posterior_does_not_depend_on_the_weighting(no_noise):
    world = GaussianWorld.random(4, seed=1, shift=0.3)
    images, _ = world.images(2, seed=2)
    found = [
        found_in(world, images, TrialPlan((50,), weighting=weighting), WIDE)
        for weighting in ("elbo", "native", "x0")
    ]
    for number in range(2):
        first, *others = [posterior(result.rankings[number].table) for result in found]
        for other in others:
            torch.testing.assert_close(other, first, atol=1e-4, rtol=1e-4)


def test_temperature_acts_on_the_posterior():
    world = GaussianWorld.random(3, seed=1, shift=0.3)
    images, _ = world.images(1, seed=2)
    ranking = found_in(world, images, TrialPlan((20,))).rankings[0]
    bits, cool = posterior(ranking.table), posterior(ranking.table, 0.5)
    torch.testing.assert_close(cool.diff(), bits.diff() / 2)
    assert (2**bits).sum().item() == pytest.approx(1)
    absolute = found_in(world, images, TrialPlan((20,), loss="l1")).rankings[0]
    with pytest.raises(ValueError, match="loss l2 for a posterior"):
        posterior(absolute.table)


@pytest.mark.parametrize("weighting", ["eps", "x0", "elbo"])
def test_networks_of_every_kind_decide_alike(weighting):
    """eps, v and x0 at the same noise levels; a flow's signal and noise scaled to them."""
    world = GaussianWorld.random(10, seed=3, shift=0.8)
    images, _ = world.images(6, seed=4)
    plan = TrialPlan(
        (5, 8, 11), weighting=weighting, sampler=SpreadGrid(), rule=PLANS["balanced"].rule
    )
    sigmas = ((1 - ALPHAS.double()) / ALPHAS.double()).sqrt()
    schedules = [
        *(variance_preserving(ALPHAS, kind) for kind in ("eps", "v", "x0")),
        NoiseSchedule.exploding(sigmas, "v"),
        NoiseSchedule(1 / (1 + sigmas), sigmas / (1 + sigmas), "flow"),
    ]
    first, *others = [found_in(world, images, plan, schedule) for schedule in schedules]
    for other in others:
        assert other.best == first.best and other.calls == first.calls
        for one, two in zip(other.rankings, first.rankings, strict=True):
            torch.testing.assert_close(
                one.table.errors, two.table.errors, rtol=1e-5, atol=0, equal_nan=True
            )


def block_errors(world, images, blocks, size, generator):
    """Noise errors (B, K, trials) in blocks, by the closed formula, with fresh noise and times."""
    columns = []
    for _ in range(blocks):
        for part in range(size):
            places = (part + torch.rand(len(images), generator=generator)) / size
            signal = ALPHAS[(places * 1000).long()].double()[:, None]
            noise = torch.randn(images.shape, generator=generator, dtype=torch.float64)
            spread = signal * world.variances + 1 - signal
            constant = -signal * world.variances / spread * noise  # the noise's own part
            moved = (signal * (1 - signal)).sqrt() / spread
            gaps = images.double()[:, None] - world.means
            errors = (constant[:, None] + moved[:, None] * gaps).square().mean(-1)
            columns.append(errors)
    return torch.stack(columns, -1)


def expected_errors(world, images):
    """(B, K) what infinitely many trials would give, up to what classes share."""
    signal = ALPHAS.double()[:, None]
    factor = (signal * (1 - signal) / (signal * world.variances + 1 - signal) ** 2).mean(0)
    return ((images.double()[:, None] - world.means).square() * factor).mean(-1)


@pytest.mark.parametrize(("shift", "power"), [(0.1, 0.0), (1.0, 1.0)])
def test_certified_drops_the_best_less_often_than_it_says(shift, power):
    """1000 images; with classes that are almost the same, where mistakes are easiest, and others.

    The best is the prompt that infinitely many trials would choose.
    """
    world = GaussianWorld.random(4, seed=5, shift=shift, changed=8, size=32)
    images, _ = world.images(1000, seed=6)
    best = expected_errors(world, images).argmin(1)
    errors = block_errors(world, images, 24, 4, torch.Generator().manual_seed(7))
    rule, sampler = Certified(0.05), Blocks(4)
    wrong = dropped = 0
    for number in range(1000):
        alive = list(range(4))
        for blocks in range(4, 25, 5):
            step = EliminationStep(errors[number, alive, : 4 * blocks], (), sampler, 4, alive)
            alive = [alive[row] for row in rule.keeps(step)]
        wrong += best[number].item() not in alive
        dropped += 4 - len(alive)
    assert wrong <= 0.05 * 1000
    assert dropped / 1000 > power


@pytest.mark.parametrize("sampler", [SpreadGrid(), AdaptiveTimes(), UniformTimes()])
def test_intervals_of_the_margin_cover_the_truth(sampler):
    """About nine in ten 90 % intervals of differences; noise is stronger at fine levels."""
    world = GaussianWorld.random(8, seed=8, shift=0.8)
    images, _ = world.images(30, seed=9)
    truth = expected_errors(world, images)
    plan = TrialPlan((20,), (1,), sampler=sampler)
    found = found_in(world, images, plan)
    half_width = student.ppf(0.95, 19 + 8)
    inside = [
        abs(ranking.lead(0, k).margin - (truth[n, k] - truth[n, 0])) <= half_width * error
        for n, ranking in enumerate(found.rankings)
        for k in range(1, 8)
        for error in [ranking.lead(0, k).standard_error]
    ]
    assert 0.81 < sum(inside) / len(inside) < 0.97


def test_cantelli_bounds_how_often_a_margin_is_lost():
    world = GaussianWorld.random(2, seed=10, shift=0.5, size=64)
    images, _ = world.images(8, seed=12)
    truth = expected_errors(world, images)
    lost, bounds = [], []
    for image, row in zip(images, truth, strict=True):
        better = int(row.argmin())
        repeats = found_in(world, image.expand(40, -1), TrialPlan((10,)))
        leads = [ranking.lead(better, 1 - better) for ranking in repeats.rankings]
        lost += [lead.margin <= 0 for lead in leads]
        bounds += [lead.cantelli for lead in leads]
    assert 0.02 < sum(lost) / len(lost) <= sum(bounds) / len(bounds)


def test_rankings_by_paired_scores_are_those_of_a_full_run():
    """Images of three classes at once: losers' few trials and winners' many do not compare raw."""
    world = GaussianWorld.random(40, seed=13, shift=1.2)
    generator = torch.Generator().manual_seed(14)
    wanted = [torch.randperm(40, generator=generator)[:3].tolist() for _ in range(40)]
    noise = torch.randn(40, 512, generator=generator, dtype=torch.float64)
    means = torch.stack([world.means[rows].sum(0) for rows in wanted])
    images = (means + world.variances.sqrt() * noise).float()
    found = found_in(world, images, TrialPlan())
    full = found_in(world, images, TrialPlan((20,), sampler=SpreadGrid()))

    def precision(result, kind):
        pairs = zip(result.rankings, wanted, strict=True)
        return sum(average_precision(r.ranked(kind), rows) for r, rows in pairs) / 40

    paired, stage, code, raw = (
        precision(found, kind) for kind in ("paired", "stage", "paper_code", "raw")
    )
    assert precision(full, "raw") - paired < 0.08
    assert paired > code + 0.1 > raw + 0.2
    assert paired >= stage - 0.02
    firsts = [ranking.ranked("paper_code")[0] for ranking in found.rankings]
    assert firsts == found.best


def test_bands_add_up_and_independent_bands_add_up_in_variance():
    """Pixels that are cosines of the coefficients, so errors of bands are independent (S.12)."""
    world = GaussianWorld.random(2, seed=15, shift=0.5, size=256)
    images, _ = world.images(1, seed=16)
    basis = cosines(16)

    class Pixels:
        """The oracle behind an image whose cosine transform holds its coefficients."""

        schedule = STABLE_DIFFUSION
        inner = OracleDenoiser(world, STABLE_DIFFUSION)

        def __call__(self, latent, trial, prompts):
            trial = type(trial)(trial.level, cosine_transform(trial.noise).flatten())
            clean = self.inner(cosine_transform(latent).flatten(), trial, prompts)
            return (basis.T @ clean.unflatten(-1, (16, 16)) @ basis)[:, None]

    sample = (basis.T @ images[0].double().view(16, 16) @ basis)[None].float()
    plan = TrialPlan((100,), (1,), sampler=SpreadGrid())
    ranking = classify(Pixels(), sample[None], labels(2), plan).rankings[0]
    source = ErrorSource(Pixels(), sample, labels(2), plan)
    rows = band_differences(source, ranking, 0, 1, bands=6)
    assert rows.shape == (100, 6)
    differences = ranking.table.errors[1] - ranking.table.errors[0]
    torch.testing.assert_close(rows.sum(1), differences, atol=1e-7, rtol=1e-4)
    late = [n for n, spec in enumerate(ranking.table.specs) if spec.timestep > 300]
    variances, total = rows[late].diff(dim=0).var(0), differences[late].diff().var()
    assert variances.sum().item() == pytest.approx(total.item(), rel=0.5)


def test_theorem_1_tells_whether_a_filter_helps():
    """Differences in two bands; a filter that takes noise and no signal lowers sigma / mu."""
    generator = torch.Generator().manual_seed(17)
    plan = TrialPlan((100,), (1,), sampler=SpreadGrid())
    specs = ranking_draws(plan)
    signal = 1 + 0.3 * torch.randn(100, generator=generator, dtype=torch.float64)
    noise = 2 * torch.randn(100, generator=generator, dtype=torch.float64)
    for gain_signal, gain_noise, helps in ((1.0, 0.5, True), (0.5, 1.0, False), (0.9, 0.2, True)):
        filtered = gain_signal**2 * signal + gain_noise**2 * noise
        change = noise_change(signal + noise, filtered, specs, plan.sampler)
        plain_r = change.variance**0.5 / change.mean
        other_r = change.compressed_variance**0.5 / change.compressed_mean
        assert change.holds is helps is (other_r < plain_r)
        assert change.log_ratio == pytest.approx(torch.tensor(other_r / plain_r).log().item())
        assert (change.log_ratio < 0) is helps
        assert 0 < change.log_ratio_error < 0.5
    unchanged = noise_change(signal, signal, specs, plan.sampler)
    assert unchanged.condition == pytest.approx(0) and unchanged.log_ratio_error == 0


def ranking_draws(plan):
    world = GaussianWorld.random(2, seed=0, shift=1.0)
    images, _ = world.images(1, seed=0)
    found = found_in(world, images, plan)
    return found.rankings[0].table.specs


def test_effects_need_three_trials_of_both():
    with pytest.raises(ValueError, match="the same three trials or more"):
        noise_change(torch.zeros(2), torch.zeros(2), (), SpreadGrid())


@pytest.mark.parametrize("name", [name for name in PLANS if name != "certified"])
def test_every_plan_finds_classes_that_are_far_apart(name):
    world = GaussianWorld.random(20, seed=18, shift=1.8)
    images, truth = world.images(10, seed=19)
    found = found_in(world, images, PLANS[name])
    assert found.best == truth.tolist()
    assert all(r.calls <= PLANS[name].calls(20) for r in found.rankings)


def test_stopping_early_saves_calls_without_losing_images():
    """On other worlds than any that were used to settle the rule."""
    paper, *early = plans = ("paper [5, 20]", "sequential", "balanced")
    calls, right = Counter(), Counter()
    for seed in range(3):
        world = GaussianWorld.random(10, seed=100 + seed, shift=0.8)
        images, truth = world.images(30, seed=200 + seed)
        for name in plans:
            found = found_in(world, images, PLANS[name])
            calls[name] += found.calls
            right[name] += sum(a == b for a, b in zip(found.best, truth.tolist(), strict=True))
    for name, share in zip(early, (0.65, 0.55), strict=True):
        assert calls[name] <= share * calls[paper]
        assert right[name] >= right[paper] - 2


@pytest.mark.parametrize(
    ("classes", "shift", "name"),
    [
        (4, 0.3, "balanced"),
        (37, 0.7, "paper [5, 20]"),
        (100, 0.8, "balanced"),
    ],
)
def test_confidence_is_how_often_a_long_run_agrees(classes, shift, name):
    """On average, or less; with many classes too, most of which had a few trials only."""
    world = GaussianWorld.random(classes, seed=20, shift=shift, size=256)
    images, _ = world.images(60, seed=21)
    found = found_in(world, images, PLANS[name])
    agree = (expected_errors(world, images).argmin(1) == torch.tensor(found.best)).double().mean()
    confidence = sum(ranking.confidence for ranking in found.rankings) / 60
    assert 0.4 < agree < 0.99
    assert -0.25 < confidence - agree.item() < 0.1

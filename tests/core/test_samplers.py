"""Which trials each design draws, and what it says about the variance of their mean."""

import pytest
import torch

from benchmarks.mirrored_pairs import MirroredPairs
from bigain_core.classification import (
    AdaptiveTimes,
    Blocks,
    PublishedGrid,
    SpreadGrid,
    TrialPlan,
    TrialSpec,
    UniformTimes,
    trial_timesteps,
)
from bigain_core.classification.trials.samplers import Progress
from tests.core.classifying import SAMPLERS

TRIALS = (100,)


def draws_of(sampler, count, errors_at=None, seed=0, image=0):
    """The first trials of a sampler, where prompt k of 3 has the error errors_at(t)[k]."""
    specs, columns = [], []
    for _ in range(count):
        errors = torch.stack(columns, 1) if columns else torch.zeros(3, 0, dtype=torch.float64)
        spec = sampler.draw(TRIALS, Progress(seed, image, tuple(specs), errors, range(3)))
        specs.append(spec)
        errors = errors_at(spec.timestep) if errors_at else [0.0, 0.0, 0.0]
        columns.append(torch.tensor(errors, dtype=torch.float64))
    return specs


@pytest.mark.parametrize(("count", "trials"), [(5, (5, 20)), (20, (5, 20))])
def test_the_spread_grid_has_the_published_trials_in_another_order(count, trials):
    """Timestep and noise both, so a published run can be gone on with."""
    published = [TrialSpec(t, n) for n, t in enumerate(sum(trial_timesteps(trials), []))][:count]
    spread = draws_of(SpreadGrid(), count)
    assert set(spread) == set(published)
    assert count == 5 or spread != published


def test_a_hundred_spread_trials_are_the_even_grid():
    specs = draws_of(SpreadGrid(), 100)
    assert sorted(d.timestep for d in specs) == list(range(5, 1000, 10))
    assert sorted(d.noise for d in specs) == list(range(100))


def unevenness(times):
    """Root mean square miss of the middles of equal bins, in bins."""
    share = 1000 / len(times)
    misses = [time - (rank + 0.5) * share for rank, time in enumerate(sorted(times))]
    return (sum(miss**2 for miss in misses) / len(misses)) ** 0.5 / share


@pytest.mark.parametrize("count", [5, 8, 11, 14, 17, 20, 40, 60, 80, 100])
def test_every_look_at_the_spread_grid_is_even(count):
    times = [d.timestep for d in draws_of(SpreadGrid(), count)]
    assert unevenness(times) < 0.42
    quarters = torch.bincount(torch.tensor(times) // 250, minlength=4)
    assert quarters.max() - quarters.min() <= 2


def test_the_finest_noise_level_comes_right_after_the_first_look():
    assert 25 in [d.timestep for d in draws_of(SpreadGrid(), 8)[5:]]


def test_uniform_times_cover_the_axis_and_depend_on_the_key_alone():
    specs = draws_of(UniformTimes(), 500)
    counts = torch.histc(torch.tensor([float(d.timestep) for d in specs]), 10, 0, 1000)
    assert (counts - 50).abs().max() < 28  # over four standard errors
    assert specs == draws_of(UniformTimes(), 500)
    assert specs != draws_of(UniformTimes(), 500, image=1)
    assert specs != draws_of(UniformTimes(), 500, seed=1)


def test_each_block_has_one_trial_in_every_part():
    specs = draws_of(Blocks(4), 400)
    assert [d.timestep // 250 for d in specs] == [0, 1, 2, 3] * 100
    assert len({d.timestep for d in specs}) > 300


def test_mirrored_trials_share_noise_at_neighbouring_times():
    specs = draws_of(MirroredPairs(), 16)
    assert [d.sign for d in specs] == ([1] * 4 + [-1] * 4) * 2
    assert [d.noise for d in specs] == [0, 1, 2, 3] * 2 + [4, 5, 6, 7] * 2
    for first, second in zip(specs[:4], specs[4:8], strict=True):
        assert 61 <= second.timestep - first.timestep <= 63 or first.timestep == 0
    quarters = {(d.timestep + 31) * 4 // 1000 % 4 for d in specs[:4]}
    assert len(quarters) >= 3


def test_adaptive_times_begin_like_the_grid_and_visit_every_part():
    specs = draws_of(AdaptiveTimes(), 8)
    assert specs[:3] == draws_of(SpreadGrid(), 3)
    assert sorted(d.timestep // 125 for d in specs) == list(range(8))


def test_adaptive_times_go_where_prompts_disagree():
    """Prompts differ below 125 and a third as much from 500 to 625: 3 to 1 trials (Neyman)."""

    def errors(timestep):
        size = {0: 3.0, 4: 1.0}.get(timestep // 125, 0.0)
        return [0.1, 0.1 + size, 0.1 + 2 * size]

    specs = draws_of(AdaptiveTimes(), 46, errors)
    counts = torch.bincount(torch.tensor([d.timestep // 125 for d in specs]), minlength=8)
    assert counts.tolist() == pytest.approx([30, 1, 1, 1, 10, 1, 1, 1], abs=1.5)
    visited = sorted(d.timestep for d in specs if d.timestep < 125)
    assert len(set(visited)) == len(visited)
    gaps = torch.tensor([0, *visited, 125]).diff()
    assert gaps.max() <= 12, "a part is covered evenly"


def test_adaptive_times_follow_the_leaders_alone():
    """The last of three prompts is out of the running and disagrees where nobody else does."""

    def errors(timestep):
        part = timestep // 125
        return [1.0 * (part == 6), 0.0, 50.0 + 100.0 * (part == 2)]

    specs = draws_of(AdaptiveTimes(leaders=2), 40, errors)
    counts = torch.bincount(torch.tensor([d.timestep // 125 for d in specs]), minlength=8)
    assert counts[6] > 25 and counts[2] == 1


def test_the_score_of_adaptive_trials_counts_every_part_the_same():
    def error(timestep):
        return [float(timestep // 125 == 0), 0.0, 0.0]

    sampler = AdaptiveTimes()
    specs = draws_of(sampler, 30, error)
    errors = torch.tensor([error(d.timestep) for d in specs]).T
    assert sum(d.timestep < 125 for d in specs) > 10
    torch.testing.assert_close(sampler.score(errors, specs), torch.tensor([1 / 8, 0.0, 0.0]))


def trial_errors(specs, generator):
    """Noise around a slope over time, and around a step that is twice as noisy early on."""
    times = torch.tensor([d.timestep / 1000 for d in specs], dtype=torch.float64)
    noise = torch.randn(4000, len(specs), generator=generator, dtype=torch.float64)
    return 2 * times + noise * (1 + (times < 0.25))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_estimated_variances_are_those_of_the_score(sampler):
    """Over 4000 repetitions; the mean may only be too large, by what the slope adds at most."""
    generator = torch.Generator().manual_seed(0)
    count = 24
    if isinstance(sampler, UniformTimes | Blocks | MirroredPairs):  # other times for each image
        scores, variances = [], []
        for image in range(200):
            specs = draws_of(sampler, count, image=image)
            errors = trial_errors(specs, generator)[:8]
            scores.append(sampler.score(errors, specs))
            variances.append(sampler.variance(errors, specs))
        scores, variances = torch.cat(scores), torch.cat(variances)
    else:
        specs = draws_of(sampler, count, lambda t: [0.0, 1.0 + (t < 250), 2.0 + 2 * (t < 250)])
        errors = trial_errors(specs, generator)
        scores, variances = sampler.score(errors, specs), sampler.variance(errors, specs)
    ratio = (variances.mean() / scores.var()).item()
    assert 0.85 < ratio < 1.3


def test_mirrored_pairs_are_one_measurement():
    """Opposite noise cancels, and the estimate must know."""
    sampler = MirroredPairs()
    specs = draws_of(sampler, 24)
    noise = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = torch.stack([d.sign * noise[d.noise] for d in specs])
    assert sampler.units(specs) == 12
    assert sampler.variance(errors, specs) < 1e-30 < errors.var() / 24


def test_a_grid_knows_that_a_trend_is_no_noise():
    specs = draws_of(SpreadGrid(), 20)
    errors = torch.tensor([float(d.timestep) for d in specs])
    assert SpreadGrid().variance(errors, specs) < errors.var() / 20 / 10


def test_more_trials_than_the_grid_has_are_refused():
    with pytest.raises(ValueError, match="at most 100 trials on the spread-out grid, got 200"):
        TrialPlan((5, 200), sampler=SpreadGrid())


@pytest.mark.parametrize("sampler", [PublishedGrid(), *SAMPLERS])
def test_timesteps_of_a_design_hold_all_that_it_draws(sampler):
    plan = TrialPlan((20,), sampler=sampler)
    if sampler == PublishedGrid():
        assert plan.timesteps == list(range(25, 1000, 50))
        return
    assert {d.timestep for d in draws_of(sampler, 20)} <= set(plan.timesteps)

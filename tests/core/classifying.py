"""Rankings, denoisers and runs of two models, for tests of the classifier."""

import math

import torch
from scipy.stats import t as student

from benchmarks.mirrored_pairs import MirroredPairs
from benchmarks.noise_schedules import alphas_cumprod, variance_preserving
from bigain_core.classification import (
    AdaptiveTimes,
    Blocks,
    Provenance,
    PublishedGrid,
    Ranking,
    Screening,
    SpreadGrid,
    TrialTable,
    UniformTimes,
    classify,
)
from bigain_core.classification.trials.samplers import TrialSpec
from bigain_core.listener import Listener

SAMPLERS = [SpreadGrid(), UniformTimes(), Blocks(), MirroredPairs(), AdaptiveTimes()]
SCHEDULE = variance_preserving(alphas_cumprod("scaled-linear"))


def ranking(errors, stage=None, times=None, nats=None, screening=None, **parts):
    """A ranking of errors (P, n), evenly weighted; without stages the best one survived."""
    errors = torch.as_tensor(errors)
    times = range(errors.shape[1]) if times is None else times
    specs = tuple(TrialSpec(time, number) for number, time in enumerate(times))
    if stage is None:
        stage = torch.zeros(len(errors), dtype=torch.long)
        stage[errors.mean(1).argmin()] = 1
    table = TrialTable(errors, specs, PublishedGrid(), nats)
    return Ranking(
        table, torch.as_tensor(stage), provenance=Provenance(screening=screening), **parts
    )


def classify_screened(
    cheap, denoiser, latents, labels, plan, trials=5, keep=8, cost=1.0, cheap_name=None, name=None,
    previous=None, **options,
):  # fmt: skip
    """What two models find, the cheap one first."""
    quick = plan.screening(trials)
    begun = previous and previous.screening
    found = classify(cheap, latents, labels, quick, model=cheap_name, previous=begun, **options)
    screening = Screening(found, keep, cost)
    return classify(
        denoiser, latents, labels, plan, model=name, screening=screening, previous=previous,
        **options,
    )  # fmt: skip


def slow_tails(rows, leader, others, timesteps):
    """P(better than the leader), with variances moderated by the median of these alone."""
    n = len(timesteps)
    order = sorted(range(n), key=lambda s: timesteps[s])
    means, variances = {}, {}
    for k in others:
        d = [rows[k][s] - rows[leader][s] for s in order]
        means[k] = sum(d) / n
        ordinary = sum((x - means[k]) ** 2 for x in d) / (n - 1)
        steps = sum((b - a) ** 2 for a, b in zip(d, d[1:], strict=False)) / (2 * (n - 1))
        variances[k] = min(ordinary, steps) / n
    prior = sorted(variances.values())[(len(others) - 1) // 2] if others else 0
    tails = {}
    for k in others:
        variance = (8 * prior + (n - 1) * variances[k]) / (7 + n)
        tails[k] = student.sf(means[k] / math.sqrt(variance), 7 + n)
    return tails


def same(found, expected):
    for one, two in zip(found.rankings, expected.rankings, strict=True):
        assert one.table.specs == two.table.specs and torch.equal(one.stage, two.stage)
        assert torch.equal(one.table.errors.isnan(), two.table.errors.isnan())
        assert torch.equal(one.table.errors.nan_to_num(), two.table.errors.nan_to_num())
        assert one.order == two.order


class Calls(Listener):
    """Keeps what it hears."""

    def __init__(self):
        self.counts = []

    def on_calls(self, calls):
        self.counts.append(calls)


class Tabled:
    """Noise that is off by table[k][t] for prompt k at timestep t."""

    schedule = SCHEDULE

    def __init__(self, table):
        self.table, self.calls, self.noises = torch.as_tensor(table).double(), [], []

    @property
    def asked(self):
        return sum(len(prompts) for _, prompts in self.calls)

    def __call__(self, latent, trial, prompts):
        self.calls.append((trial.level.timestep, list(prompts)))
        self.noises.append(trial.noise.clone())
        off = self.table[list(prompts), trial.level.timestep]
        off = off.view(-1, *[1] * latent.ndim).expand(-1, *latent.shape)
        return latent.double() - trial.level.noise / trial.level.signal * off

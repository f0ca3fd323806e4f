"""Which of several images in the making is the best: scores, who is dropped, what is told."""

import csv
import io

import pytest
import torch

from benchmarks.judge.best_of_n import SPECS, STEPS, Run, dropping, finish_all, sequential
from benchmarks.noise_schedules import alphas_cumprod, variance_preserving
from bigain_core.classification import NoiseSchedule
from bigain_core.classification.evidence.seed_selection import (
    BestOfN,
    DropRules,
    JudgedFinalists,
    Prediction,
    best_first,
    expected_gains,
    gains_on_the_way,
    judge_finalists,
    time_shares,
)

SCHEDULES = {
    "eps": variance_preserving(alphas_cumprod("linear"), "eps"),
    "v": variance_preserving(alphas_cumprod("linear"), "v"),
    "flow": NoiseSchedule.straight(),
}


def native(kind, clean, noise, level):
    """What a network of a kind gives where `clean` and `noise` are mixed."""
    if kind == "eps":
        return noise
    return noise - clean if kind == "flow" else level.signal * noise - level.noise * clean


@pytest.mark.parametrize("kind", SCHEDULES)
def test_gains_are_those_of_the_networks_own_errors(randn, kind):
    """The noise in a latent of sampling is what is left of it without the final image."""
    schedule, final = SCHEDULES[kind], randn(3, 4, 4).double()
    predictions, expected = [], []
    for number, timestep in enumerate((900, 400, 100)):
        level = schedule.level(timestep)
        latent, *cleans = randn(3, 3, 4, 4, seed=number + 1).double()
        noise = (latent - level.signal * final) / level.noise
        target = native(kind, final, noise, level)
        errors = []
        for clean in cleans:
            answer = native(kind, clean, (latent - level.signal * clean) / level.noise, level)
            errors.append(((answer - target) ** 2).mean())
        predictions.append(Prediction(timestep, *cleans))
        expected.append(errors[1] - errors[0])
    found = gains_on_the_way(predictions, final, schedule)
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("times", [[950, 700, 100], [100, 950, 700, 700, 3], [5, 5, 6]])
def test_shares_are_the_trapezoid_rule(randn, times):
    values, (ascending, order) = randn(len(times)).double(), torch.tensor(times).sort(stable=True)
    integral = torch.trapezoid(values[order], ascending).item()
    shares = time_shares(times)
    assert (shares * values).sum().item() == pytest.approx(integral / (max(times) - min(times)))
    assert shares.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("times", [[300], [300, 300]])
def test_a_single_time_stands_for_all(times):
    assert time_shares(times).tolist() == [1 / len(times)] * len(times)


def test_gains_between_predictions_are_on_a_line():
    found = expected_gains([900, 500, 100], torch.tensor([9.0, 5.0, 1.0]), [50, 100, 300, 900, 999])
    assert found.tolist() == pytest.approx([1, 1, 3, 9, 9])


def judged(gains, expected, keep=1, delta=0.02):
    asked = []

    def measure(candidate, trial):
        asked.append((candidate, trial))
        return gains[candidate, trial].item()

    return judge_finalists(expected, measure, keep, delta), asked


def test_expectations_that_come_true_need_one_trial(randn):
    gains = randn(5, 12).double()
    found, asked = judged(gains, gains + 3)  # what all have in common counts for nobody
    assert found.alive == (int(gains.mean(1).argmax()),)
    assert asked == [(k, int(gains.std(0).argmax())) for k in range(5)]


@pytest.mark.parametrize("keep", [1, 2])
def test_without_expectations_all_trials_decide(randn, keep):
    gains = randn(4, 9).double()
    found, asked = judged(gains, torch.zeros(4, 9).double(), keep)
    assert len(asked) == 4 * 9
    assert found.alive == tuple(sorted(best_first(gains.mean(1).tolist())[:keep]))
    torch.testing.assert_close(found.scores, gains.mean(1))


def test_trials_that_tell_most_come_first(randn):
    expected = randn(3, 6).double() * torch.tensor([1.0, 5, 2, 0.1, 4, 3])
    _, asked = judged(randn(3, 6, seed=1).double(), expected, delta=1e-9)
    visited = list(dict.fromkeys(trial for _, trial in asked))
    assert visited == expected.std(0).argsort(descending=True).tolist()


def test_the_best_is_dropped_as_seldom_as_asked(randn):
    """Expectations are wrong by what the rule takes for granted; no more drops than delta each."""
    scale, runs, lost, trials = torch.linspace(0.1, 2, 20).double(), 150, 0, 0.0
    for seed in range(runs):
        expected = randn(6, 20, seed=seed).double() * scale
        misses = randn(6, 20, seed=seed + runs).double() * 0.7 * scale.sqrt()
        gains = expected + misses
        found, asked = judged(gains, expected)
        lost += found.alive != (int(gains.mean(1).argmax()),)
        trials += len(asked) / (6 * 20)
    assert lost / runs < 0.05
    assert trials / runs < 0.6


@pytest.mark.parametrize(
    "share, candidates, keep, expected",
    [(0.75, 8, 1, 6), (0.875, 8, 1, 7), (0.75, 2, 1, 2), (0.5, 8, 6, 7), (0.5, 4, 4, 4)],
)
def test_how_many_go_on(share, candidates, keep, expected):
    assert DropRules().going_on(share, candidates, keep) == expected


@pytest.fixture
def found():
    """Four seeds: one dropped while sampling, one after a trial, one after two, one kept."""
    nan, expected = torch.nan, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
    gains = torch.tensor([[3.0, nan, nan], [6.0, 7.0, nan], [4.0, 2.0, nan]])
    judged = JudgedFinalists(gains.double(), expected.double(), (1,))
    return BestOfN((7, 8, 9, 10), (0.3, 0.1, 0.2, 0.25), (0, 2, 3), judged, 1, (40, 20, 40, 40))


def test_who_was_dropped_when_is_told(found):
    assert found.best == [2] and found.order == [2, 3, 0, 1]
    rows = list(csv.DictReader(io.StringIO(found.table())))
    assert [(row["seed"], row["score"], row["dropped"], row["evaluations"]) for row in rows] == [
        ("9", "5", "", "44"),
        ("10", "3", "after trial 2", "44"),
        ("7", "1.333", "after trial 1", "42"),
        ("8", "", "while sampling", "20"),
    ]
    last = str(found).splitlines()[-1]
    assert last.startswith("150 network evaluations, 82% of the 184")  # 4 x (40 + 2 x 3)


def test_the_benchmark_counts_calls_as_a_race_would(randn):
    """Gains that all predictions foretell: each of the last four has one trial."""
    times = list(range(975, -1, -1000 // STEPS))
    gains = randn(8, STEPS).double().sort(0).values
    on_the_way = [gains[:, :step] for step in range(1, STEPS + 1)]
    judged = torch.stack([expected_gains(times, row, [s.timestep for s in SPECS]) for row in gains])
    run = Run(times, on_the_way, judged)
    rules = DropRules(stages=((500, 0.5),))
    winner, calls = dropping(rules)(run)
    steps = 1 + sum(time > 500 for time in times)
    assert winner == 7 == finish_all(run)[0]
    assert calls == 2 * (8 * steps + 4 * (STEPS - steps) + 4)
    assert finish_all(run)[1] == 2 * 8 * (STEPS + len(SPECS))
    assert sequential(run)[0] == 7 and sequential(run)[1] < finish_all(run)[1]

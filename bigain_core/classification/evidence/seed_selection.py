"""Which of several images that are being sampled a prompt describes best, not all of them finished.

Guidance asks the network at every step with and without the prompt. Compared with the image that
comes out, the two answers tell what the prompt explains: trials of a judge with the noise that the
sampler left in place of drawn noise, and free of charge. They say which images need not be
finished, and which trials of the judge can tell the others apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor

from ...text import csv_table
from ..elimination.student_t import student_tail
from ..trials.levels import NoiseSchedule
from ..trials.weighting import error_weight


@dataclass(frozen=True, eq=False)
class Prediction:
    """Clean latents (C, ...) as predicted with and without the prompt at a timestep of sampling."""

    timestep: int
    prompted: Tensor
    unprompted: Tensor


@dataclass(frozen=True)
class DropRules:
    """When candidates are dropped.

    stages: (timestep, share) pairs in the order of sampling: once it has come down to the timestep,
    this share of all candidates goes on, and one more than are wanted at least.
    delta: after each trial of the judge those are dropped whose probabilities of still coming out
    among the best add up to no more than this.
    """

    stages: tuple[tuple[int, float], ...] = ((350, 0.875), (150, 0.75))
    delta: float = 0.02

    def going_on(self, share: float, candidates: int, keep: int) -> int:
        return min(candidates, max(keep + 1, ceil(share * candidates)))


def gains_on_the_way(
    predictions: Sequence[Prediction], clean: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """By how much the prompt lowered the error of each prediction (P,), if `clean` comes out.

    Errors are those of `ErrorSource`; fp64 on the CPU.
    """
    clean = clean.double().cpu()
    gains = []
    for one in predictions:
        weight = error_weight("native", schedule, schedule.level(one.timestep))
        errors = [
            (predicted.double().cpu() - clean).square().mean()
            for predicted in (one.unprompted, one.prompted)
        ]
        gains.append(weight * (errors[0] - errors[1]))
    return torch.stack(gains)


def time_shares(timesteps: Sequence[int]) -> Tensor:
    """The part (P,) of the time between the first and the last that each stands for; they sum to 1.

    By the trapezoid rule, in any order. A single one stands for all.
    """
    times = torch.tensor(timesteps, dtype=torch.float64)
    if len(times) == 1 or times.max() == times.min():
        return torch.full_like(times, 1 / len(times))
    order = times.argsort(stable=True)
    half_gaps = times[order].diff() / 2
    shares = torch.zeros_like(times)
    shares[order[:-1]] += half_gaps
    shares[order[1:]] += half_gaps
    return shares / shares.sum()


def expected_gains(timesteps: Sequence[int], gains: Tensor, trials: Sequence[int]) -> Tensor:
    """Gains (P,) at the timesteps of sampling as gains (T,) at those of trials.

    Linear between neighbours, constant beyond the ends.
    """
    order = np.argsort(timesteps, kind="stable")
    found = np.interp(trials, np.asarray(timesteps)[order], gains.numpy()[order])
    return torch.from_numpy(found)


def best_first(scores: Sequence[float]) -> list[int]:
    """Equal ones stay in order."""
    return sorted(range(len(scores)), key=lambda k: -scores[k])


@dataclass(frozen=True, eq=False)
class JudgedFinalists:
    """gains (N, T) of finished candidates in the judge's trials, `expected` where NaN.

    `alive` are those that were not dropped.
    """

    gains: Tensor
    expected: Tensor
    alive: tuple[int, ...]

    @property
    def trials(self) -> Tensor:
        """(N,) how many trials each had."""
        return self.gains.isfinite().sum(1)

    @property
    def scores(self) -> Tensor:
        """(N,) mean gain in all trials, as far as they are known."""
        return torch.where(self.gains.isfinite(), self.gains, self.expected).mean(1)


def judge_finalists(
    expected: Tensor, measure: Callable[[int, int], float], keep: int, delta: float
) -> JudgedFinalists:
    """The best `keep` candidates, as if each had had all trials of the judge.

    expected (N, T): what sampling itself said of each trial. measure(candidate, trial) gives the
    gain. Trials in which candidates are expected to differ most come first. How wrong expectations
    are is learned from those that took place: in others less so where candidates differ less, by
    the square root in the variance, as the noise of a trial does not fall in proportion.
    """
    spread = expected.std(0)
    order = spread.argsort(descending=True, stable=True).tolist()
    gains, alive = torch.full_like(expected, torch.nan), tuple(range(len(expected)))
    found = JudgedFinalists(gains, expected, alive)
    for number, trial in enumerate(order, 1):
        if len(found.alive) <= keep:
            break
        for candidate in found.alive:
            gains[candidate, trial] = measure(candidate, trial)
        alive = _kept(found, spread.sqrt(), order[:number], order[number:], keep, delta)
        found = JudgedFinalists(gains, expected, alive)
    return found


def _kept(
    found: JudgedFinalists, doubt: Tensor, seen: list[int], rest: list[int], keep: int, delta: float
) -> tuple[int, ...]:
    """Who is not dropped after the trials `seen`; doubt (T,) is in proportion to variances."""
    alive, scores = list(found.alive), found.scores
    ranked = [alive[k] for k in best_first(scores[alive].tolist())]
    if not rest:
        return tuple(sorted(ranked[:keep]))
    misses = (found.gains - found.expected)[alive][:, seen]
    scale = misses.var(0).sum() / doubt[seen].sum()
    error = (2 * scale * doubt[rest].sum()).sqrt() / len(doubt)
    behind = scores[ranked[keep - 1]] - scores[ranked[keep:]]
    chance = student_tail(behind / error, len(seen) * (len(alive) - 1))
    surest = chance.flip(0)  # the last ones first
    count = int((surest.cumsum(0) <= delta).sum())
    return tuple(sorted(ranked[: len(ranked) - count]))


@dataclass(frozen=True, eq=False)
class BestOfN:
    """What became of each candidate.

    on_the_way (N,): scores by which candidates were compared while they were sampled. `finalists`
    are the candidates that were finished, in the order of `judged`. sampling_calls (N,) are
    evaluations of the network.
    """

    seeds: tuple[int, ...]
    on_the_way: tuple[float, ...]
    finalists: tuple[int, ...]
    judged: JudgedFinalists
    keep: int
    sampling_calls: tuple[int, ...]

    @property
    def order(self) -> list[int]:
        """Candidates best first: those dropped late before those dropped early."""
        scores, trials = self.judged.scores.tolist(), self.judged.trials.tolist()
        rows = sorted(
            range(len(scores)),
            key=lambda row: (row not in self.judged.alive, -trials[row], -scores[row]),
        )
        finalists = [self.finalists[row] for row in rows]
        return finalists + [k for k in best_first(self.on_the_way) if k not in finalists]

    @property
    def best(self) -> list[int]:
        """The candidates that are kept, best first."""
        return self.order[: self.keep]

    @property
    def calls(self) -> list[int]:
        """(N,) evaluations of the network, the judge's two in each trial among them."""
        calls = list(self.sampling_calls)
        for number, trials in zip(self.finalists, self.judged.trials.tolist(), strict=True):
            calls[number] += 2 * trials
        return calls

    @property
    def all_calls(self) -> int:
        """What finishing all candidates and judging them in all trials would have taken."""
        one = self.sampling_calls[self.best[0]] + 2 * self.judged.gains.shape[1]
        return one * len(self.seeds)

    @property
    def share(self) -> float:
        """The part of `all_calls` that was spent."""
        return sum(self.calls) / self.all_calls

    @property
    def rows(self) -> list[dict]:
        """What became of each candidate by the names of columns, best first."""
        rows = []
        for rank, number in enumerate(self.order, 1):
            score, dropped = "", "while sampling"
            if number in self.finalists:
                row = self.finalists.index(number)
                score = f"{self.judged.scores[row].item():.4g}"
                dropped = f"after trial {self.judged.trials[row]}" * (row not in self.judged.alive)
            rows.append(
                {
                    "rank": rank,
                    "seed": self.seeds[number],
                    "score": score,
                    "score_on_the_way": f"{self.on_the_way[number]:.4g}",
                    "dropped": dropped,
                    "evaluations": self.calls[number],
                }
            )
        return rows

    def table(self) -> str:
        """CSV with a row per candidate, best first."""
        return csv_table(self.rows[0], [row.values() for row in self.rows])

    def __str__(self) -> str:
        lines = []
        for row in self.rows:
            score = row["score"] or f"on the way {row['score_on_the_way']}"
            fate = f"dropped {row['dropped']}" if row["dropped"] else "kept"
            lines.append(f"{row['rank']}. seed {row['seed']}: score {score}, {fate}")
        lines.append(
            f"{sum(self.calls)} network evaluations, {self.share:.0%} of the {self.all_calls} for "
            "finishing and judging all"
        )
        return "\n".join(lines)

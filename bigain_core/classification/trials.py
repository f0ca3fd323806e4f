"""Timesteps of trials: the published nested grid, and an order that covers it evenly."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .noise import TIMESTEPS

PUBLISHED = (5, 20)
SPREAD_TRIALS = 100


def trial_timesteps(trial_list: tuple[int, ...]) -> list[list[int]]:
    """New timesteps of each stage: mid-points of evenly spaced bins, nested over the stages.

    (5, 20) gives 125, 325, 525, 725, 925 and then the other 15 of 25, 75, ..., 975. As published, a
    stage whose grid does not contain the one before it evaluates all of its own timesteps anew:
    (5, 20, 100) visits 5, 25 and 100 timesteps cumulatively.
    """
    most = max(trial_list)
    stride = TIMESTEPS // most
    grid = list(range(stride // 2, TIMESTEPS, stride))[:most]
    done: set[int] = set()
    stages = []
    for count in trial_list:
        step = most // count
        fresh = [t for t in grid[step // 2 :: step][:count] if t not in done]
        done.update(fresh)
        stages.append(fresh)
    return stages


def most_even(candidates: np.ndarray, visited: np.ndarray) -> int:
    """The candidate (L,) that brings all visited positions (n,) closest to even midpoints.

    Positions lie in [0, 1); closest in the mean square between the i-th position and (i + 1/2) / n,
    which is the L2 discrepancy. The first of equal candidates.
    """
    known = np.broadcast_to(visited, (len(candidates), len(visited)))
    joined = np.hstack([known, candidates[:, None]])  # (L, n + 1)
    midpoints = (np.arange(joined.shape[1]) + 0.5) / joined.shape[1]
    misses = ((np.sort(joined, axis=1) - midpoints) ** 2).sum(1)
    return int(misses.argmin())


@lru_cache
def spread_timesteps() -> tuple[tuple[int, int], ...]:
    """(timestep, noise number) of the 100 trials of the nested grids, in the order of visiting.

    The first 5 and the first 20 are those of the published grid (5, 20), and each keeps the noise
    that it has there, so both are the same trials in another order: in this one every number of
    trials covers the time axis as evenly as can be.
    """
    stages = trial_timesteps(PUBLISHED)
    stages.append(sorted({*trial_timesteps((SPREAD_TRIALS,))[0]} - {*stages[0], *stages[1]}))
    visited: list[tuple[int, int]] = []
    for stage in stages:
        fresh = list(enumerate(stage, len(visited)))
        while fresh:
            places = np.array([timestep for timestep, _ in visited]) / TIMESTEPS
            candidates = np.array([timestep for _, timestep in fresh]) / TIMESTEPS
            number, timestep = fresh.pop(most_even(candidates, places))
            visited.append((timestep, number))
    return tuple(visited)

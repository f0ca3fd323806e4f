"""Timesteps of trials: the published nested grid, and an order that covers it evenly."""

from __future__ import annotations

from functools import lru_cache

from .noise import TIMESTEPS

PUBLISHED = (5, 20)
SPREAD_TRIALS = 100


def trial_timesteps(trial_list: tuple[int, ...]) -> list[list[int]]:
    """New timesteps of each stage: mid-points of evenly spaced bins, nested over the stages.

    (5, 20) gives 125, 325, 525, 725, 925 and then the other 15 of 25, 75, ..., 975. As published, a
    stage whose grid does not contain the one before it evaluates all of its own timesteps anew:
    (5, 20, 100) visits 5, 25 and 100 timesteps cumulatively. That rule covers the time axis where
    all numbers divide the last and that divides 1000; others follow `even_timesteps`.
    """
    most = max(trial_list)
    if TIMESTEPS % most or any(most % count for count in trial_list):
        return even_timesteps(trial_list)
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


def even_timesteps(trial_list: tuple[int, ...]) -> list[list[int]]:
    """New timesteps of each stage of an ascending list, after which exactly so many were visited.

    All are mid-points of as many even bins as the last stage has trials. The first stage takes
    those nearest to the mid-points of its own bins, and each further one adds to the bins of its
    own that are empty, the farthest from all visited first. No gap after two or three stages is
    twice as large as that of an even grid; after more, four times.
    """
    most, visited, stages = trial_list[-1], [], []
    for count in trial_list:
        full = {(2 * place + 1) * count // (2 * most) for place in visited}
        middles = (
            (2 * part + 1) * most // (2 * count) for part in range(count) if part not in full
        )
        farthest = sorted(middles, key=lambda m: -min((abs(m - v) for v in visited), default=0))
        fresh = sorted(farthest[: count - len(visited)])
        visited += fresh
        stages.append([(2 * place + 1) * TIMESTEPS // (2 * most) for place in fresh])
    return stages


def in_rounds(times: list[int], parts: int, order: tuple[int, ...]) -> list[int]:
    """Visit one time in each of `parts` equal runs, then another in each, and so on.

    `order` says which place of the runs each round takes. Within a round every other run comes
    first, so half a round is even as well.
    """
    runs = [*range(0, parts, 2), *range(1, parts, 2)]
    return [times[run * len(order) + place] for place in order for run in runs]


@lru_cache
def spread_timesteps() -> tuple[tuple[int, int], ...]:
    """(timestep, noise number) of 100 trials on nested grids of 5, 20 and 100.

    The first 5 and the first 20 are those of the published grid (5, 20), and each keeps the noise
    that it has there, so both are the same trials in another order. The 15 are visited in rounds of
    3, one in each third, the further 80 in rounds of 20, so that the trials after any round are
    less than half a bin from an even grid. The finest noise level, which shows most detail, comes
    in the first round.
    """
    stages = trial_timesteps(PUBLISHED)
    stages.append(sorted({*trial_timesteps((SPREAD_TRIALS,))[0]} - {*stages[0], *stages[1]}))
    published = {time: number for number, time in enumerate(sum(stages, []))}
    visited = [
        *in_rounds(stages[0], 1, (2, 0, 4, 1, 3)),
        *in_rounds(stages[1], 3, (0, 3, 2, 4, 1)),
        *in_rounds(stages[2], 20, (0, 3, 1, 2)),
    ]
    return tuple((time, published[time]) for time in visited)

"""Times of several pieces of work that take turns, so that a slow moment slows all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from torch import Tensor

Work = Callable[[], Tensor]


@dataclass(frozen=True)
class Spread:
    """The median of some numbers between their quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values) -> Spread:
        return cls(*np.quantile(np.asarray(values), (0.25, 0.5, 0.75)).tolist())


@dataclass(frozen=True)
class Times:
    """Seconds of one piece of work, round by round."""

    seconds: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        return Spread.of(self.seconds)

    def gain_over(self, other: Times) -> Spread:
        """How many times as fast as `other`, of the same rounds: 2 takes half the time."""
        return Spread.of(np.divide(other.seconds, self.seconds))


def by_clock(work: Work) -> float:
    """Seconds of a work that gives a tensor: reading a number of it waits for all of it."""
    start = perf_counter()
    result = work()
    result[(0,) * result.ndim].item()
    return perf_counter() - start


def take_turns(
    works: Mapping[str, Work],
    rounds: int,
    warm_up: int = 1,
    before_each: Callable[[str], None] = lambda name: None,
    timed: Callable[[Work], float] = by_clock,
) -> dict[str, Times]:
    """Run all works in each round, forth and back in turn, and time them.

    The first `warm_up` rounds do not count. `before_each` is called with the name, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(warm_up + rounds):
        for name in list(works)[:: -1 if number % 2 else 1]:
            before_each(name)
            taken = timed(works[name])
            if number >= warm_up:
                seconds[name].append(taken)
    return {name: Times(tuple(taken)) for name, taken in seconds.items()}

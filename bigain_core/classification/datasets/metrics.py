"""How good a set of results is, and how sure that is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import comb, sqrt


def wilson_interval(successes: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of the share successes / total; z = 1.96 covers 95 %."""
    share, weight = successes / total, z * z / total
    centre = share + weight / 2
    half_width = z * sqrt(share * (1 - share) / total + weight / (4 * total))
    return (centre - half_width) / (1 + weight), (centre + half_width) / (1 + weight)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided p-value that two methods are equally often right on the same images."""
    wins = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    losses = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    apart, fewer = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(comb(apart, k) for k in range(fewer + 1)) / 2**apart)


def average_precision(ranking: Sequence[int], labels: Collection[int]) -> float:
    """Mean of the precision at each label in a ranking, best first (paper, S.18).

    Labels that the ranking lacks count as never found. Raises ValueError without labels.
    """
    if not labels:
        raise ValueError(
            "BiGain: expected at least one label for the average precision, got none. Leave "
            "unlabelled images out and say how many there were."
        )
    wanted, hits, total = set(labels), 0, 0.0
    for rank, prompt in enumerate(ranking, 1):
        if prompt in wanted:
            hits += 1
            total += hits / rank
    return total / len(wanted)

"""How sure a measured share is."""

from __future__ import annotations

from math import sqrt


def wilson_interval(successes: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of the share successes / total; z = 1.96 covers 95 %."""
    share, weight = successes / total, z * z / total
    centre = share + weight / 2
    reach = z * sqrt(share * (1 - share) / total + weight / (4 * total))
    return (centre - reach) / (1 + weight), (centre + reach) / (1 + weight)

"""Student's t distribution, in closed form for whole degrees of freedom."""

from __future__ import annotations

from functools import lru_cache
from math import pi, sqrt

import torch
from torch import Tensor

LARGEST_DOF = 200  # from there on the distribution hardly changes, and its sum is long
BISECTIONS = 50


def student_tail(t: Tensor, dof: int) -> Tensor:
    """P(T > t) elementwise in fp64 (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    t = t.double()
    angle = torch.atan(t.abs() / sqrt(dof))
    sine, cosine = angle.sin(), angle.cos()
    odd = dof % 2
    term = cosine.clone() if odd else torch.ones_like(cosine)
    total = torch.zeros_like(term)
    for k in range(1, dof // 2 + 1):
        total += term
        term = term * cosine**2 * ((2 * k) / (2 * k + 1) if odd else (2 * k - 1) / (2 * k))
    central = (angle + sine * total) * 2 / pi if odd else sine * total
    tail = (1 - central).clamp(min=0) / 2
    return torch.where(t >= 0, tail, 1 - tail)


@lru_cache
def student_quantile(probability: float, dof: int) -> float:
    """t with P(T <= t) = probability, for one of at least 1/2, by bisection."""
    dof = min(dof, LARGEST_DOF)

    def above(t: float) -> float:
        return student_tail(torch.tensor(t, dtype=torch.float64), dof).item()

    low, high = 0.0, 1.0
    while above(high) > 1 - probability:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) > 1 - probability else (low, middle)
    return high

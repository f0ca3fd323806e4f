"""Student's t distribution, in closed form for whole degrees of freedom."""

from __future__ import annotations

from math import pi, sqrt

import torch
from torch import Tensor


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

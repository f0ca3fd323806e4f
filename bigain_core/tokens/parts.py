"""Deciding for a large batch, such as the frames of a video, part by part.

Scores and cosines are computed in fp32. For all frames at once they take more memory than the layer
itself; no sample's plan depends on another, so parts give the same.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .plans import Plan, plan_tensors

AT_ONCE = 2**26  # values of the metric, 256 MiB in fp32: images, but not video, are below it


def plan_in_parts(method, metric: Tensor, grid, progress, layer_number: int) -> Plan:
    """`method.plan` for a metric (B, N, C), not much more than AT_ONCE values at a time."""
    samples = max(1, AT_ONCE // (metric.shape[1] * metric.shape[2]))
    parts = metric.split(samples)
    plans = [method.plan(part, grid, progress, layer_number) for part in parts]
    return plans[0] if len(plans) == 1 else _joined(plans)


def _joined(plans: list[Plan]) -> Plan:
    """One plan for the batches of all, one after the other."""
    rows = zip(*(plan_tensors(plan).values() for plan in plans), strict=True)
    names = plan_tensors(plans[0])
    return replace(plans[0], **dict(zip(names, map(torch.cat, rows), strict=True)))

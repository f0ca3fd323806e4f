"""Mean loss of residuals."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LOSSES = ("l2", "l1", "huber")


def element_losses(residuals: Tensor, loss: str) -> Tensor:
    """Loss of every element in fp32; Huber's has its corner at 1."""
    residuals = residuals.float()
    if loss == "l2":
        return residuals.square()
    if loss == "l1":
        return residuals.abs()
    zeros = torch.zeros_like(residuals)
    return functional.huber_loss(residuals, zeros, reduction="none", delta=1.0)


def mean_error(residuals: Tensor, loss: str, mask: Tensor | None = None) -> Tensor:
    """Mean loss of residuals (P, ...) over everything but P: (P,), fp64 on the CPU.

    `mask` weighs the elements and broadcasts to a residual. Rows of elements are added up in fp32
    on the device, their sums in fp64.
    """
    losses = element_losses(residuals, loss)
    if mask is None:
        return losses.mean(-1).cpu().double().reshape(len(losses), -1).mean(1)
    mask = mask.float().expand(losses.shape[1:])
    sums = (losses * mask).sum(-1).cpu().double().reshape(len(losses), -1).sum(1)
    return sums / mask.sum(-1).cpu().double().sum()

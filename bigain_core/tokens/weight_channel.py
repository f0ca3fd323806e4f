"""Weights of keys as one more channel of queries and keys, for kernels that take no mask."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

MULTIPLE = 8  # of channels, as kernels want it


def wider(channels: int) -> int:
    """Channels of a head with the weights in it."""
    return (channels // MULTIPLE + 1) * MULTIPLE


def with_weight_channel(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, heads, N, D) whose attention has a bias on its logits.

    `bias` is (B, 1 or heads, Nk). They have `wider(D)` channels each; what attention returns beyond
    D is zero. `scale` is what the kernel multiplies products of queries and keys with, None for
    1 / sqrt of the channels it sees.
    """
    channels = q.shape[-1]
    added = wider(channels) - channels
    if scale is None:
        q, scale = q * sqrt(wider(channels) / channels), 1 / sqrt(wider(channels))
    one = functional.pad(torch.ones_like(q[..., :1]), (0, added - 1))
    weight = (bias / scale).to(k.dtype)[..., None].expand(-1, k.shape[1], -1, -1)
    weight = functional.pad(weight, (0, added - 1))
    return torch.cat([q, one], -1), torch.cat([k, weight], -1), functional.pad(v, (0, added))

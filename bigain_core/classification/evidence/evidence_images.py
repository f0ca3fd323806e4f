"""Evidence that can be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

RED, BLUE = (0.85, 0.1, 0.1), (0.1, 0.25, 0.9)
FULL = 0.99  # this share of the places is within the range of the colours
OPACITY = 0.8
GREY = 0.6


def evidence_plane(evidence: Tensor) -> Tensor:
    """Evidence of each place, (C, ..., H, W) -> (H, W), with the same sum."""
    return evidence.flatten(0, -3).sum(0)


def evidence_images(
    planes: Sequence[Tensor], images: Tensor, smoothing: int = 1
) -> tuple[Tensor, Tensor]:
    """Images (B, H, W, 3) in grey, red where evidence (h, w) is for and blue where against.

    And masks (B, H, W): the evidence for, between 0 and 1. Both show means over squares of
    `smoothing` places (odd), as single places are noisy, up-sampled to the image.
    """
    strengths = torch.stack([_strength(p, images.shape[1:3], smoothing) for p in planes])
    colours = torch.where(strengths[..., None] > 0, torch.tensor(RED), torch.tensor(BLUE))
    grey = GREY * images[..., :3].float().cpu().mean(-1, keepdim=True)
    weights = OPACITY * strengths.abs()[..., None]
    return (1 - weights) * grey + weights * colours, strengths.clamp(min=0)


def _strength(plane: Tensor, size: Sequence[int], smoothing: int) -> Tensor:
    """Evidence (h, w) as (H, W) between -1 and 1; 0 stays 0."""
    plane = plane[None, None].float()
    smooth = functional.avg_pool2d(
        plane, smoothing, 1, smoothing // 2, count_include_pad=False
    )  # (1, 1, h, w)
    values = smooth.abs().flatten().sort().values
    strongest = values[int(FULL * (len(values) - 1))].clamp(min=torch.finfo(torch.float32).tiny)
    larger = functional.interpolate(smooth, tuple(size), mode="bilinear")
    return (larger[0, 0] / strongest).clamp(-1, 1)

"""Frequency bands: what an operator does to each, and what each adds to a lead (S.8-S.12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from bigain_core.classification import ErrorSource, Ranking
from bigain_core.classification.evidence.evidence import shared_trials
from bigain_core.tokens.grid import TokenGrid


def cosines(size: int) -> Tensor:
    """Orthonormal DCT-II: row k is the cosine of frequency k, (size, size) in fp64."""
    k = torch.arange(size, dtype=torch.float64)[:, None]
    places = torch.arange(size, dtype=torch.float64) + 0.5
    basis = (pi * k * places / size).cos() * (2 / size) ** 0.5
    basis[0] /= 2**0.5
    return basis


def cosine_transform(x: Tensor) -> Tensor:
    """Orthonormal DCT-II over the last two axes (..., H, W), in fp64; energies are kept."""
    height, width = x.shape[-2:]
    return cosines(height) @ x.double() @ cosines(width).T


def radial_bands(height: int, width: int, bands: int) -> Tensor:
    """(H, W) ring of each frequency: 0 is coarsest; rings are equally wide up to the corner."""
    y = torch.arange(height, dtype=torch.float64)[:, None] / height
    x = torch.arange(width, dtype=torch.float64) / width
    radius = (y**2 + x**2).sqrt() / 2**0.5
    return (radius * bands).long()


def sum_by_band(values: Tensor, bands: int) -> Tensor:
    """Sums of values (H, W) over each ring: (bands,)."""
    rings = radial_bands(*values.shape, bands).flatten()
    return values.new_zeros(bands).index_add(0, rings, values.flatten())


@dataclass(frozen=True, eq=False)
class Response:
    """What an operator does to each cosine of a grid, both (H, W).

    `gain` is by how much it changes a cosine's root mean square, `kept` the part of that which is
    still this cosine (signed); the rest went to other frequencies. `kept` is None for operators
    that change the number of tokens.
    """

    gain: Tensor
    kept: Tensor | None


def frequency_response(operator: Callable[[Tensor], Tensor], grid: TokenGrid) -> Response:
    """Measure an operator on tokens (1, N, C) -> (1, M, C) with every cosine of the grid (H_P).

    A plan is measured by `lambda x: plan.restore(plan.queries(x))` or by `plan.context`.
    """
    rows, columns = cosines(grid.height), cosines(grid.width)
    waves = torch.einsum("ky,lx->yxkl", rows, columns)
    waves = waves.reshape(1, grid.height * grid.width, -1)  # (1, N, N): a channel per cosine
    answer = operator(waves)
    gain = (answer.square().mean(1) / waves.square().mean(1)).sqrt()
    kept = (answer * waves).sum(1) if answer.shape == waves.shape else None
    shape = (grid.height, grid.width)
    return Response(gain.view(shape), kept if kept is None else kept.view(shape))


def band_differences(
    source: ErrorSource, ranking: Ranking, better: int, worse: int, bands: int
) -> Tensor:
    """What each frequency band adds to the lead in each trial: (T, bands), fp64 (paper, S.8-S.12).

    Bands are rings of the cosine transform over the last two axes of the latent, from coarse to
    fine; the sum over bands is the difference of the errors. For loss l2 without a mask.
    """
    if source.plan.loss != "l2" or source.mask is not None or source.latent.ndim < 2:
        raise ValueError(
            "BiGain: expected errors with loss l2 of whole images for frequency bands, got loss "
            f"{source.plan.loss} {'with' if source.mask is not None else 'without'} a mask on a "
            f"latent of shape {tuple(source.latent.shape)}. Only squared errors of all elements "
            "add up over frequencies."
        )
    rows = []
    for spec in shared_trials(ranking, better, worse):
        residuals = source.residuals(spec, [better, worse])
        energy = cosine_transform(residuals.cpu().double()).square()
        difference = (energy[1] - energy[0]).flatten(0, -3).sum(0)  # (H, W)
        rows.append(sum_by_band(difference, bands))
    return torch.stack(rows) / source.elements

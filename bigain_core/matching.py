"""Who merges with whom: destinations and bipartite matching (paper, Algorithm 2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .grid import TokenGrid
from .plans import MergePlan

DESTINATION_RULES = ("lowest", "top-left", "random")


def choose_destinations(
    scores: Tensor,
    grid: TokenGrid,
    cell: int = 2,
    rule: str = "lowest",
    generator: torch.Generator | None = None,
) -> Tensor:
    """One destination per cell x cell square: scores (B, N) -> token indices (B, cells).

    "lowest" takes the lowest score of the square (first in raster order on ties; paper, Algorithm
    2), "top-left" its first token, "random" one drawn from `generator` on the CPU and shared by the
    whole batch, so that it does not depend on the batch split. Rows and columns that fill no square
    hold no destination; a grid smaller than one square has none.

    Raises ValueError for an unknown rule, or "random" without a generator.
    """
    cells = grid.cells(cell)
    batch = scores.shape[0]
    if rule == "lowest":
        image = scores.unflatten(1, (grid.height, grid.width))
        image = image[:, : cells.height * cell, : cells.width * cell]
        squares = image.unflatten(1, (cells.height, cell)).unflatten(3, (cells.width, cell))
        squares = squares.transpose(2, 3).reshape(batch, cells.tokens, cell * cell)
        offset = _first_minimum(squares)
    elif rule == "top-left":
        offset = torch.zeros(batch, cells.tokens, dtype=torch.long, device=scores.device)
    elif rule == "random" and generator is not None:
        drawn = torch.randint(cell * cell, (1, cells.tokens), generator=generator)
        offset = drawn.to(scores.device).expand(batch, -1)
    else:
        raise ValueError(
            f"BiGain: expected a destination rule of {DESTINATION_RULES} ('random' with a "
            f"generator), got {rule!r}."
        )
    square = torch.arange(cells.tokens, device=scores.device)
    row = square // max(1, cells.width) * cell + offset // cell
    column = square % max(1, cells.width) * cell + offset % cell
    return row * grid.width + column


def _first_minimum(squares: Tensor) -> Tensor:
    """argmin over the last axis that takes the first of equal values on every device."""
    is_lowest = squares == squares.amin(-1, keepdim=True)
    order = torch.arange(squares.shape[-1], 0, -1, device=squares.device)
    return (is_lowest * order).argmax(-1)


def match_tokens(metric: Tensor, destinations: Tensor, ratio: float) -> MergePlan:
    """Merge the int(N * ratio) sources that are most alike a destination (paper, Algorithm 2).

    metric (B, N, C), destinations (B, D) of distinct indices per row; every other token is a
    source. Similarity is the cosine in fp32; each source goes to its best destination, and no more
    merge than there are sources. Sources that are equally alike are taken in raster order.

    Raises ValueError unless 0 <= ratio <= 1.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(
            f"BiGain: expected a merge ratio between 0 and 1 (share of all tokens), got {ratio}."
        )
    batch, count, channels = metric.shape
    device = metric.device
    target = torch.arange(count, device=device).repeat(batch, 1)
    source_count = count - destinations.shape[1] if destinations.shape[1] else 0
    merged = min(int(count * ratio), source_count)
    if merged == 0:
        return MergePlan.from_target(target, count)

    is_source = torch.ones(batch, count, dtype=torch.bool, device=device)
    is_source.scatter_(1, destinations, False)
    sources = is_source.nonzero()[:, 1].view(batch, source_count)
    unit = functional.normalize(metric.float(), dim=-1)
    at_sources = unit.gather(1, sources[..., None].expand(-1, -1, channels))
    at_destinations = unit.gather(1, destinations[..., None].expand(-1, -1, channels))
    best, partner = (at_sources @ at_destinations.transpose(1, 2)).max(-1)  # (B, S)
    chosen = best.argsort(dim=1, descending=True, stable=True)[:, :merged]
    target.scatter_(1, sources.gather(1, chosen), destinations.gather(1, partner.gather(1, chosen)))
    return MergePlan.from_target(target, count - merged)

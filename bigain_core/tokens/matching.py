"""Who merges with whom: destinations, bipartite matching and pruning, ranking of blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .grid import TokenGrid
from .plans import MergePlan, indices_of, rows_at

DESTINATION_RULES = ("lowest", "published", "top-left", "random")
AGGREGATES: dict[str, Callable[[Tensor], Tensor]] = {  # of the last axis
    "max": lambda squares: squares.amax(-1),
    "min": lambda squares: squares.amin(-1),
    "sum": lambda squares: squares.sum(-1),
    "mean": lambda squares: squares.mean(-1),
    "std": lambda squares: squares.std(-1, correction=0),
}

Products = Callable[[Tensor, Tensor], Tensor]  # (B, S, C), (B, C, D) -> (B, S, D)

# Tokens by candidates whose cosines are computed at a time. The large tile bounds memory, to 64 MiB
# per image, and is a single product where there are up to 4096 tokens. What a CPU makes of a small
# one stays in its cache, which pays unless there are few cosines. Nothing here depends on the
# batch, so that no result does.
_TILE = (4096, 4096)
_CPU_TILE = (1024, 1024)
_FEW = 2**18


def choose_destinations(
    scores: Tensor,
    grid: TokenGrid,
    cell: int = 2,
    rule: str = "lowest",
    generator: torch.Generator | None = None,
    protected: Tensor | None = None,
) -> Tensor:
    """One destination per cell x cell square: scores (B, N) -> token indices (B, cells).

    "lowest" takes the lowest score of the square (first in raster order on ties; paper, Algorithm
    2). "published" is the rule of the published code: it lacks a transpose, so square j takes the
    offset of the lowest among entries j * cell**2 to (j + 1) * cell**2 of its band of rows, read
    row by row. "top-left" takes the first token, "random" one drawn from `generator` on the CPU and
    shared by the whole batch, so that it does not depend on the batch split. Rows and columns that
    fill no square hold no destination; a grid smaller than one square has none.

    A square whose choice is among the `protected` (B, P) tokens takes the next one that is not: the
    next lowest, or the next in raster order from the top left or, wrapping round, from the drawn
    one. A square of protected tokens alone yields one of them.

    Raises ValueError for an unknown rule, or "random" without a generator.
    """
    cells = grid.cells(cell)
    offsets = torch.arange(cell * cell, device=scores.device)
    if rule == "lowest":
        order = cell_squares(scores, grid, cell)
    elif rule == "published":
        order = _row_band_strips(scores, grid, cell)
    elif rule == "top-left":
        order = offsets.float().expand(scores.shape[0], cells.tokens, -1)
    elif rule == "random" and generator is not None:
        drawn = torch.randint(cell * cell, (1, cells.tokens, 1), generator=generator)
        distance = (offsets - drawn.to(scores.device)) % (cell * cell)
        order = distance.float().expand(scores.shape[0], -1, -1)
    else:
        raise ValueError(
            f"BiGain: expected a destination rule of {DESTINATION_RULES} ('random' with a "
            f"generator), got {rule!r}."
        )
    if protected is not None:
        is_protected = _marked(protected, grid.tokens)
        order = order.masked_fill(cell_squares(is_protected, grid, cell), torch.inf)
    offset = _first_minimum(order)  # (B, cells)
    return _squares_first(grid, cell, scores.device) + offset // cell * grid.width + offset % cell


def _squares_first(grid: TokenGrid, cell: int, device: torch.device) -> Tensor:
    """(cells,): index of the top-left token of each square."""
    cells = grid.cells(cell)
    square = torch.arange(cells.tokens, device=device)
    row, column = square // max(1, cells.width), square % max(1, cells.width)
    return (row * grid.width + column) * cell


def cell_squares(scores: Tensor, grid: TokenGrid, cell: int) -> Tensor:
    """Scores (B, N) by square: (B, cells, cell * cell), each in raster order."""
    rows = _whole_cells(scores, grid, cell).unflatten(1, (-1, cell))
    squares = rows.unflatten(3, (-1, cell)).transpose(2, 3)  # (B, h, w, cell, cell)
    return squares.flatten(3).flatten(1, 2)


def _row_band_strips(scores: Tensor, grid: TokenGrid, cell: int) -> Tensor:
    """What the published code takes for the squares: (B, cells, cell * cell)."""
    return _whole_cells(scores, grid, cell).flatten(1).unflatten(1, (-1, cell * cell))


def _whole_cells(scores: Tensor, grid: TokenGrid, cell: int) -> Tensor:
    """(B, N) -> (B, h * cell, w * cell), without the remainders."""
    cells = grid.cells(cell)
    image = scores.unflatten(1, (grid.height, grid.width))
    return image[:, : cells.height * cell, : cells.width * cell]


def _first_minimum(squares: Tensor) -> Tensor:
    """argmin over the last axis that takes the first of equal values on every device."""
    is_lowest = squares == squares.amin(-1, keepdim=True)
    order = torch.arange(squares.shape[-1], 0, -1, device=squares.device)
    return (is_lowest * order).argmax(-1)


def match_tokens(
    metric: Tensor,
    destinations: Tensor,
    ratio: float,
    protected: Tensor | None = None,
    mode: str = "mean",
) -> MergePlan:
    """Merge the int(N * ratio) sources that are most alike a destination (paper, Algorithm 2).

    metric (B, N, C), destinations (B, D) of distinct indices per row; every other token is a
    source, but for those `protected` (B, P), which are neither: a destination among them takes no
    source (but one per sample must not be among them). Similarity is the cosine in fp32; each
    source goes to its best destination, and no more merge than N - D - P. Sources that are equally
    alike are taken in raster order.

    Raises ValueError unless 0 <= ratio <= 1.
    """
    check_ratio(ratio)
    batch, count, _ = metric.shape
    target = torch.arange(count, device=metric.device).repeat(batch, 1)
    merged = _merged_tokens(destinations, protected, count, ratio)
    if merged == 0:
        return MergePlan.from_target(target, count)
    sources, best, partner = _best_partners(metric, destinations, protected)
    chosen = best.argsort(dim=1, descending=True, stable=True)[:, :merged]
    target.scatter_(1, sources.gather(1, chosen), partner.gather(1, chosen))
    return MergePlan.from_target(target, count - merged, mode)


def check_ratio(ratio: float) -> None:
    """Raise ValueError unless it is a share."""
    if not 0 <= ratio <= 1:
        raise ValueError(
            "BiGain: expected a merge ratio between 0 (off) and 1 (share of all tokens), got "
            f"{ratio}. The paper uses 0.1 to 0.75."
        )


def _merged_tokens(destinations: Tensor, protected: Tensor | None, count: int, ratio: float) -> int:
    """How many tokens merge in every sample; their number never depends on the scores."""
    if destinations.shape[1] == 0:
        return 0
    kept = destinations.shape[1] + (0 if protected is None else protected.shape[1])
    return min(int(count * ratio), max(0, count - kept))


def _best_partners(
    metric: Tensor, destinations: Tensor, protected: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(sources, cosine with the best destination, that destination), each (B, N - D)."""
    count = metric.shape[1]
    is_source = _marked(destinations, count).logical_not()
    sources = indices_of(is_source, count - destinations.shape[1])
    if protected is None:
        return sources, *_most_alike(metric, sources, destinations)
    is_protected = _marked(protected, count)
    closed = is_protected.gather(1, destinations)
    first_open = destinations.gather(1, closed.int().argmin(1, keepdim=True))
    best, partner = _most_alike(metric, sources, torch.where(closed, first_open, destinations))
    return sources, best.masked_fill(is_protected.gather(1, sources), -torch.inf), partner


def _most_alike(metric: Tensor, tokens: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """(cosine with the most alike candidate, that candidate), each (B, K); cosines in fp32.

    metric (B, N, C), tokens (B, K), candidates (B, D); the first of equal candidates counts.
    """
    few = tokens.shape[1] * candidates.shape[1] <= _FEW
    if few or metric.device.type != "cpu":
        return _search(metric, tokens, candidates, _TILE, torch.matmul)
    images = zip(metric.split(1), tokens.split(1), candidates.split(1), strict=True)
    found = [_search(*image, _CPU_TILE, _product_of_image) for image in images]
    best, chosen = zip(*found, strict=True)
    return torch.cat(best), torch.cat(chosen)


def _search(
    metric: Tensor, tokens: Tensor, candidates: Tensor, tile: tuple[int, int], products: Products
) -> tuple[Tensor, Tensor]:
    """`_most_alike` with only a tile of the cosines in memory at any time."""
    rows, columns = tile
    goals = [_unit_rows(metric, some).mT.contiguous() for some in candidates.split(columns, dim=1)]
    found = []
    for some in tokens.split(rows, dim=1):
        unit = _unit_rows(metric, some)
        best, place = zip(*(products(unit, goal).max(-1) for goal in goals), strict=True)
        best, number = torch.stack(best).max(0)  # (B, rows)
        place = torch.stack(place).gather(0, number[None]).squeeze(0) + number * columns
        found.append((best, candidates.gather(1, place)))
    best, chosen = zip(*found, strict=True)
    return torch.cat(best, dim=1), torch.cat(chosen, dim=1)


def _unit_rows(x: Tensor, indices: Tensor) -> Tensor:
    return functional.normalize(rows_at(x, indices).float(), dim=-1)


def _product_of_image(a: Tensor, b: Tensor) -> Tensor:
    """(1, S, C), (1, C, D) -> (1, S, D) on a CPU.

    A convolution with kernels of one point is the same product, and torch runs it faster on CPUs
    (1.6 times on an AMD EPYC) than its matrix library does.
    """
    return functional.conv1d(b, a.squeeze(0)[..., None])


def _marked(indices: Tensor, count: int) -> Tensor:
    """(B, count) bool, true at the indices (B, K)."""
    blank = torch.zeros(indices.shape[0], count, dtype=torch.bool, device=indices.device)
    return blank.scatter_(1, indices, True)


def prune_tokens(metric: Tensor, destinations: Tensor, ratio: float) -> MergePlan:
    """Drop the int(N * ratio) sources that are most alike a destination (SiTo).

    As `match_tokens`, but a dropped token receives the output of the kept token, source or
    destination, that is most alike.
    """
    matched = match_tokens(metric, destinations, ratio)
    if matched.query_tokens == metric.shape[1]:
        return matched
    count, left = metric.shape[1], matched.query_tokens
    is_kept = _marked(matched.kept, count)
    dropped = indices_of(is_kept.logical_not(), count - left)
    _, nearest = _most_alike(metric, dropped, matched.kept)
    return MergePlan.from_target(matched.target.scatter(1, dropped, nearest), left, "prune")


def rank_blocks(
    scores: Tensor, grid: TokenGrid, cell: int, ratio: float, aggregate: str, mode: str = "mean"
) -> MergePlan:
    """Merge whole cell x cell blocks with the lowest aggregate score (paper, Algorithm 3).

    scores (B, N). `ratio` is the share of all tokens to remove, as everywhere and as in the
    published code; a block removes cell**2 - 1, so int(N * ratio) // (cell**2 - 1) blocks merge.
    aggregate: "max", "min", "sum", "mean" or "std" (population) of a block's scores. Blocks of
    equal score are taken in raster order.

    Raises ValueError for another aggregate or unless 0 <= ratio <= 1.
    """
    check_ratio(ratio)
    if aggregate not in AGGREGATES:
        raise ValueError(
            f"BiGain: expected an aggregate of {tuple(AGGREGATES)}, got {aggregate!r}."
        )
    batch, count = scores.shape
    target = torch.arange(count, device=scores.device).repeat(batch, 1)
    blocks = merged_blocks(grid, cell, ratio)
    if blocks == 0:
        return MergePlan.from_target(target, count)
    ranked = AGGREGATES[aggregate](cell_squares(scores, grid, cell)).argsort(dim=1, stable=True)
    first = _squares_first(grid, cell, scores.device)[ranked[:, :blocks]]  # (B, blocks)
    for row in range(cell):
        for column in range(cell):
            target.scatter_(1, first + row * grid.width + column, first)
    return MergePlan.from_target(target, count - blocks * (cell * cell - 1), mode)


def merged_blocks(grid: TokenGrid, cell: int, ratio: float) -> int:
    """How many blocks are merged to remove `ratio` of all tokens."""
    if cell == 1:
        return 0
    return min(int(grid.tokens * ratio) // (cell * cell - 1), grid.cells(cell).tokens)

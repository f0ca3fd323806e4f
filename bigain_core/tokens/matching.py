"""Who merges with whom: destinations, bipartite matching and pruning, ranking of blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .grid import TokenGrid
from .plans import MergePlan, rows_at

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
    drawn: Tensor | None = None,
    protected: Tensor | None = None,
) -> Tensor:
    """One destination per cell x cell square: scores (B, N) -> token indices (B, cells).

    The squares of a film reach over all its frames, which come one after the other in raster order.

    "lowest" takes the lowest score of the square (first in raster order on ties; paper, Algorithm
    2). "published" is the rule of the published code: it lacks a transpose, so square j takes the
    offset of the lowest among entries j * cell**2 to (j + 1) * cell**2 of its band of rows, read
    row by row. "top-left" takes the first token, "random" the one that the whole number `drawn`
    (cells,) for its square tells, modulo its tokens, the same for the whole batch. Rows and columns
    that fill no square hold no destination; a grid smaller than one square has none.

    A square whose choice is among the `protected` (B, P) tokens takes the next one that is not: the
    next lowest, or the next in raster order from the top left or, wrapping round, from the drawn
    one. A square of protected tokens alone yields one of them.

    Raises ValueError for an unknown rule, or "random" without `drawn` numbers.
    """
    cells = grid.cells(cell)
    if not cells.tokens:
        return torch.empty(scores.shape[0], 0, dtype=torch.long, device=scores.device)
    if rule == "lowest" and grid.frames == 1:
        if protected is not None:
            scores = scores.scatter(1, protected, torch.inf)
        image = scores.neg().unflatten(1, (grid.height, grid.width))
        _, chosen = functional.max_pool2d(image, cell, return_indices=True)  # the first on ties
        return chosen.flatten(1)
    tokens = torch.arange(grid.tokens, device=scores.device)[None]
    squares = cell_squares(tokens, grid, cell).expand(scores.shape[0], -1, -1)
    size = squares.shape[-1]
    if rule == "lowest":
        order = cell_squares(scores, grid, cell)
    elif rule == "published":
        order = _row_band_strips(scores, grid, cell)
    elif rule == "top-left":
        if protected is None:
            return squares[..., 0]
        order = torch.arange(size, device=scores.device).float().expand_as(squares)
    elif rule == "random" and drawn is not None:
        if protected is None:
            offset = (drawn % size)[None, :, None].expand(scores.shape[0], -1, -1)
            return squares.gather(-1, offset).squeeze(-1)
        offsets = torch.arange(size, device=scores.device)
        distance = (offsets - drawn[:, None]) % size
        order = distance.float().expand_as(squares)
    else:
        raise ValueError(
            f"BiGain: expected a destination rule of {DESTINATION_RULES} ('random' with "
            f"drawn numbers), got {rule!r}."
        )
    if protected is not None:
        is_protected = _marked(protected, grid.tokens)
        order = order.masked_fill(cell_squares(is_protected, grid, cell), torch.inf)
    offset = order.argmin(-1, keepdim=True)  # the first on ties
    return squares.gather(-1, offset).squeeze(-1)


def cell_squares(scores: Tensor, grid: TokenGrid, cell: int) -> Tensor:
    """Scores (B, N) by square: (B, cells, frames * cell * cell), each in raster order."""
    rows = _whole_cells(scores, grid, cell).unflatten(2, (-1, cell))
    squares = rows.unflatten(4, (-1, cell)).permute(0, 2, 4, 1, 3, 5)
    return squares.flatten(3).flatten(1, 2)  # (B, h, w, frames, cell, cell) before


def _row_band_strips(scores: Tensor, grid: TokenGrid, cell: int) -> Tensor:
    """What the published code takes for the squares: (B, cells, cell * cell)."""
    return _whole_cells(scores, grid, cell).flatten(1).unflatten(1, (-1, cell * cell))


def _whole_cells(scores: Tensor, grid: TokenGrid, cell: int) -> Tensor:
    """(B, N) -> (B, frames, h * cell, w * cell), without the remainders."""
    cells = grid.cells(cell)
    image = scores.unflatten(1, (grid.frames, grid.height, grid.width))
    return image[:, :, : cells.height * cell, : cells.width * cell]


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
    merged = _merged_tokens(destinations, protected, count, ratio)
    own, listed = in_front(destinations, count)
    if merged == 0:
        return MergePlan(own, own)
    sources = listed[:, destinations.shape[1] :]
    best, partner = _best_partners(metric, listed, destinations, protected)
    order = best.argsort(dim=1, descending=True, stable=True)
    ranked, partner = sources.gather(1, order), partner.gather(1, order[:, :merged])
    kept = torch.cat((destinations, ranked[:, merged:]), dim=1)
    return MergePlan.from_target(own.scatter(1, ranked[:, :merged], partner), kept, mode)


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
    metric: Tensor, listed: Tensor, destinations: Tensor, protected: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(cosine with the best destination, that destination) of all `listed` behind the destinations.

    listed (B, N), destinations (B, D) in front; each (B, N - D).
    """
    goals = destinations.shape[1]
    if protected is None:
        return _most_alike(metric, listed, goals)
    closed, is_protected = (
        _marked(protected, metric.shape[1]).gather(1, listed).tensor_split((goals,), dim=1)
    )
    first_open = destinations.gather(1, closed.int().argmin(1, keepdim=True))
    usable = torch.where(closed, first_open, destinations)
    best, partner = _most_alike(metric, torch.cat((usable, listed[:, goals:]), dim=1), goals)
    return best.masked_fill(is_protected, -torch.inf), partner


def _most_alike(metric: Tensor, listed: Tensor, goals: int) -> tuple[Tensor, Tensor]:
    """(cosine with the most alike candidate, that candidate), each (B, K); cosines in fp32.

    metric (B, N, C), listed (B, goals + K): candidates in front, the first of equal ones counts.
    """
    if metric.device.type != "cpu":
        return _search(metric, listed, goals, _TILE, _product_of_each)
    few = (listed.shape[1] - goals) * goals <= _FEW
    way = (_TILE, _product_of_each) if few else (_CPU_TILE, _product_by_convolution)
    images = zip(metric.split(1), listed.split(1), strict=True)
    found = [_search(*image, goals, *way) for image in images]
    best, chosen = zip(*found, strict=True)
    return torch.cat(best), torch.cat(chosen)


def _search(
    metric: Tensor, listed: Tensor, goals: int, tile: tuple[int, int], products: Products
) -> tuple[Tensor, Tensor]:
    """`_most_alike` with only a tile of the cosines in memory at any time."""
    rows, columns = tile
    candidates, unit = _unit_rows(metric, listed).tensor_split((goals,), dim=1)
    tiles = [tile.mT for tile in candidates.split(columns, dim=1)]
    found = [_best_column([products(some, tile) for tile in tiles]) for some in unit.split(rows, 1)]
    best, place = (_joined(parts) for parts in zip(*found, strict=True))
    return best, listed.gather(1, place)


def _best_column(tiles: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of tiles (B, S, D) side by side: the largest of each row, (B, S), and its column."""
    best, place = zip(*(tile.max(-1) for tile in tiles), strict=True)
    if len(tiles) == 1:
        return best[0], place[0]
    best, number = torch.stack(best).max(0)
    place = torch.stack(place).gather(0, number[None]).squeeze(0)
    return best, place + number * tiles[0].shape[-1]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _unit_rows(x: Tensor, indices: Tensor) -> Tensor:
    rows = rows_at(x.float() if x.dtype == torch.float64 else x, indices)
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=torch.float32)
    return rows / length.clamp_min(1e-12)


def _product_of_each(a: Tensor, b: Tensor) -> Tensor:
    """One product an image, as one for all of them would round by how many they are."""
    found = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    for one, other, out in zip(a.detach(), b.detach(), found, strict=True):
        torch.mm(one, other, out=out)
    return found


def _product_by_convolution(a: Tensor, b: Tensor) -> Tensor:
    """(1, S, C), (1, C, D) -> (1, S, D) on a CPU.

    A convolution with kernels of one point is the same product, and torch runs it faster on CPUs
    (1.6 times on an AMD EPYC) than its matrix library does.
    """
    return functional.conv1d(b, a.squeeze(0)[..., None])


def _marked(indices: Tensor, count: int) -> Tensor:
    """(B, count) bool, true at the indices (B, K)."""
    blank = torch.zeros(indices.shape[0], count, dtype=torch.bool, device=indices.device)
    return blank.scatter_(1, indices, True)


def in_front(indices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """All tokens in raster order, and distinct indices (B, K) before the others: (B, count) each.

    Unlike with `nonzero` no device is waited for.
    """
    batch, chosen = indices.shape
    places = torch.arange(-chosen, count, device=indices.device).expand(batch, -1)
    first, own = places.split((chosen, count), dim=1)
    return own, own.scatter(1, indices, first).argsort(dim=1, stable=True)


def prune_tokens(metric: Tensor, destinations: Tensor, ratio: float) -> MergePlan:
    """Drop the int(N * ratio) sources that are most alike a destination (SiTo).

    As `match_tokens`, but a dropped token receives the output of the kept token, source or
    destination, that is most alike.
    """
    matched = match_tokens(metric, destinations, ratio)
    if matched.query_tokens == metric.shape[1]:
        return matched
    kept = matched.query_tokens
    _, listed = in_front(matched.kept, metric.shape[1])
    _, nearest = _most_alike(metric, listed, kept)
    target = matched.target.scatter(1, listed[:, kept:], nearest)
    return MergePlan.from_target(target, matched.kept, "prune")


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
    own = torch.arange(count, device=scores.device).expand(batch, -1)
    blocks = merged_blocks(grid, cell, ratio)
    if blocks == 0:
        return MergePlan(own, own)
    ranked = AGGREGATES[aggregate](cell_squares(scores, grid, cell)).argsort(dim=1, stable=True)
    squares = cell_squares(own[:1], grid, cell)[0][ranked[:, :blocks]]  # (B, blocks, cell * cell)
    first, rest = squares[..., :1], squares[..., 1:]
    target = own.scatter(1, rest.flatten(1), first.expand_as(rest).flatten(1))
    _, listed = in_front(rest.flatten(1), count)
    return MergePlan.from_target(target, listed[:, rest[0].numel() :], mode)


def merged_blocks(grid: TokenGrid, cell: int, ratio: float) -> int:
    """How many blocks are merged to remove `ratio` of all tokens."""
    if cell == 1:
        return 0
    return min(int(grid.tokens * ratio) // (cell * cell - 1), grid.cells(cell).tokens)

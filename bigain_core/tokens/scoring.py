"""How tokens rank by their content (paper, Table 5).

For a token x of C channels, its Laplacian Lx and its DFT x^ over channels (bins from 1), in fp32:

name                  score                                         a low score means
laplacian-l1          mean of |Lx| over channels                    smooth: like its surroundings
laplacian-l2          root of the mean of (Lx)^2 over channels      smooth
variance              mean of (x - its channel mean)^2              channels nearly equal
l1-norm               sum of |x|                                    weak
l2-norm               root of the sum of x^2                        weak
mean-deviation        l2 distance to the mean token of the sample   common in this image
dft-amplitude         sum of |x^_k|, k = 2..C                       channels nearly equal
dft-centroid          sum of k |x^_k| / sum of |x^_k|, k = 1..C     channel mean outweighs the rest
cosine-to-neighbours  mean cosine with the up to 4 adjacent tokens  detailed: unlike its neighbours
cosine-to-mean        cosine with the mean token of the sample      unusual in this image
negated-cosine-...    minus the cosine                              smooth, or common

The scale is the paper's. Its sum for dft-amplitude includes bin 1, the channel mean; the published
code leaves it out, which ranks tokens differently, and is followed here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .grid import TokenGrid

PADDINGS = ("zeros", "replicate")


# Values of an image that the CPU works on at a time: results stay in its cache, while steps on a
# whole image wait for memory. Other devices take all at once.
_BAND = 2**19


def _as_image(x: Tensor, grid: TokenGrid) -> Tensor:
    return x.unflatten(1, (grid.height, grid.width))  # (B, H, W, C)


def _with_neighbours(
    image: Tensor, padding: str, combine: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """combine(tokens, sum of those above, below, left and right) over an image (B, H, W, C).

    `combine` is given some rows at a time, (B, rows, W, C) twice, and may overwrite the sum.
    """
    height, mode = image.shape[1], "constant" if padding == "zeros" else "replicate"
    if image.device.type != "cpu":
        padded = functional.pad(image[:, None], (0, 0, 1, 1, 1, 1), mode=mode).squeeze(1)
        return combine(image, _sum_of_diamonds(padded))
    rows = max(1, _BAND * height // image.numel())
    combined = []
    for first in range(0, height, rows):
        last = min(first + rows, height)
        outside = (0, 0, 1, 1, int(first == 0), int(last == height))  # channels, columns, rows
        band = image[:, None, max(0, first - 1) : last + 1].float()  # padding takes five dimensions
        padded = functional.pad(band, outside, mode=mode).squeeze(1)
        total = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
        total += padded[:, 1:-1, :-2]
        total += padded[:, 1:-1, 2:]
        combined.append(combine(image[:, first:last], total))
    return torch.cat(combined, dim=1)


def _sum_of_diamonds(padded: Tensor) -> Tensor:
    """Sums in fp32 of the tokens around each: (B, H + 2, W + 2, C) -> (B, H, W, C).

    One kernel: seen from the token above, the others are a step to the left, one to the right and
    both together away, where a step is a row and a column more or less.
    """
    batch, height, width, channels = padded.shape
    image, row, column, _ = padded.stride()
    return padded.as_strided(
        (batch, height - 2, width - 2, channels, 2, 2),
        (image, row, column, 1, row - column, row + column),
        padded.storage_offset() + column,
    ).sum((-2, -1), dtype=torch.float32)


def _mean_laplacian(
    size: Callable[[Tensor], Tensor], x: Tensor, grid: TokenGrid, padding: str
) -> Tensor:
    """Mean over channels of size(depth-wise 4-neighbour Laplacian): x (B, N, C) -> (B, N).

    With "zeros" the outside of the image is zero, as published, so borders look detailed; with
    "replicate" a border token is its own missing neighbour.
    """

    def mean(tokens: Tensor, neighbours: Tensor) -> Tensor:
        return size(neighbours.sub_(tokens, alpha=4)).mean(-1)

    return _with_neighbours(_as_image(x, grid), padding, mean).flatten(1)


def _amplitudes(x: Tensor) -> Tensor:
    """|x^| over channels, the bin of the channel mean first: (B, N, C) -> (B, N, C)."""
    return torch.fft.fft(x, dim=-1).abs()


def _dft_centroid(x: Tensor) -> Tensor:
    amplitudes = _amplitudes(x)
    bins = torch.arange(1, x.shape[-1] + 1, device=x.device)
    # An all-zero token has no centroid: it scores 0, below all others.
    return (bins * amplitudes).sum(-1) / amplitudes.sum(-1).clamp(min=1e-12)


def _cosine_to_neighbours(x: Tensor, grid: TokenGrid) -> Tensor:
    """Mean over neighbours inside the image; the token of a 1 x 1 grid has none and scores 0."""

    def products(tokens: Tensor, neighbours: Tensor) -> Tensor:
        return (tokens * neighbours).sum(-1, keepdim=True)

    unit = _as_image(functional.normalize(x, dim=-1), grid)
    total = _with_neighbours(unit, "zeros", products)  # (B, H, W, 1)
    inside = torch.ones(1, grid.height, grid.width, 1, device=x.device)
    count = _with_neighbours(inside, "zeros", lambda _, neighbours: neighbours)
    return (total / count.clamp(min=1)).flatten(1)


def _cosine_to_mean(x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    return (functional.normalize(x, dim=-1) * functional.normalize(mean, dim=-1)).sum(-1)


# x (B, N, C) on the grid, in fp32 but for the Laplacian; padding -> (B, N)
_SCORES = {
    "laplacian-l1": lambda x, *place: _mean_laplacian(torch.abs_, x, *place),
    "laplacian-l2": lambda x, *place: _mean_laplacian(torch.square, x, *place).sqrt(),
    "variance": lambda x, *_: x.var(-1, correction=0),
    "l1-norm": lambda x, *_: x.abs().sum(-1),
    "l2-norm": lambda x, *_: x.norm(dim=-1),
    "mean-deviation": lambda x, *_: (x - x.mean(1, keepdim=True)).norm(dim=-1),
    "dft-amplitude": lambda x, *_: _amplitudes(x)[..., 1:].sum(-1),
    "dft-centroid": lambda x, *_: _dft_centroid(x),
    "cosine-to-neighbours": lambda x, grid, _: _cosine_to_neighbours(x, grid),
    "cosine-to-mean": lambda x, *_: _cosine_to_mean(x),
    "negated-cosine-to-neighbours": lambda x, grid, _: -_cosine_to_neighbours(x, grid),
    "negated-cosine-to-mean": lambda x, *_: -_cosine_to_mean(x),
}
SCORERS = tuple(_SCORES)


def score_tokens(
    x: Tensor, grid: TokenGrid, scorer: str = "laplacian-l1", padding: str = "zeros"
) -> Tensor:
    """Score of each token by the table above: x (B, N, C) -> (B, N) fp32.

    `padding` is that of the Laplacian and means nothing to the other scorers. Raises ValueError for
    a name outside SCORERS or PADDINGS.
    """
    if scorer not in SCORERS or padding not in PADDINGS:
        raise ValueError(
            f"BiGain: expected a scorer of {SCORERS} and a padding of {PADDINGS}, "
            f"got {scorer!r} and {padding!r}."
        )
    if not scorer.startswith("laplacian"):  # which takes any and sums what it has made itself
        x = x.float().contiguous()  # sums over channels round by strides
    return _SCORES[scorer](x, grid, padding)

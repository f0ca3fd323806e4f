"""How much detail a token carries (paper, Table 5)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from .grid import TokenGrid

SCORERS = ("laplacian-l1", "laplacian-l2")
PADDINGS = ("zeros", "replicate")


def laplacian(x: Tensor, grid: TokenGrid, padding: str = "zeros") -> Tensor:
    """Depth-wise 4-neighbour Laplacian of tokens: x (B, N, C) -> (B, H, W, C), in fp32.

    With "zeros" the outside of the image is zero, as published, so borders look detailed; with
    "replicate" a border token is its own missing neighbour.
    """
    image = x.float().unflatten(1, (grid.height, grid.width)).movedim(-1, 1)  # (B, C, H, W)
    mode = "constant" if padding == "zeros" else "replicate"
    padded = functional.pad(image, (1, 1, 1, 1), mode=mode)
    rows, columns = padded[..., 1:-1], padded[..., 1:-1, :]
    neighbours = rows[..., :-2, :] + rows[..., 2:, :] + columns[..., :-2] + columns[..., 2:]
    return (neighbours - 4 * image).movedim(1, -1)


def score_tokens(
    x: Tensor, grid: TokenGrid, scorer: str = "laplacian-l1", padding: str = "zeros"
) -> Tensor:
    """Detail of each token: x (B, N, C) -> (B, N) fp32; a low score marks a smooth token.

    "laplacian-l1" is the mean absolute Laplacian over channels, "laplacian-l2" its root mean
    square. Raises ValueError for a name outside SCORERS or PADDINGS.
    """
    if scorer not in SCORERS or padding not in PADDINGS:
        raise ValueError(
            f"BiGain: expected a scorer of {SCORERS} and a padding of {PADDINGS}, "
            f"got {scorer!r} and {padding!r}."
        )
    response = laplacian(x, grid, padding)
    if scorer == "laplacian-l1":
        score = response.abs().mean(-1)
    else:
        score = response.square().mean(-1).sqrt()
    return score.flatten(1)

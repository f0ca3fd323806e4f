"""Fewer keys beside block-sparse attention: `python -m benchmarks.fidelity.sparse --host PATH`.

Single layers on photographs, at as many operations, beside ComfyUI's node Model Sparse Attention.
Its kernels run on GPUs alone; this runs the reference that defines them, of comfy-kitchen (measured
with 0.2.40): each block of 64 queries sees exactly those blocks of keys that score highest, its own
and the two beside it, and of each other block one key and value that stand for all. Blocks are made
of tokens as they come, row by row, and of squares of 8 x 8 tokens.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.demo_report import table
from benchmarks.fidelity.intervals import Figure, relative, resamples
from benchmarks.fidelity.layers import LAYERS, FirstLayer, MadeLayer, Tokens
from benchmarks.fidelity.photos import PHOTOS
from benchmarks.fidelity.settings import CANDIDATE, METHODS, RIVAL
from benchmarks.paper.models import LOADERS, Files
from benchmarks.paper.work import enter
from bigain_core.compression.break_even import saved_flops
from bigain_core.measure.flops import input_shortened
from bigain_core.tokens.grid import TokenGrid

BLOCK, EDGE = 64, 8  # tokens of a block of the reference; of a square, a side
NAMES = (RIVAL, "ToDo 2, random places", "average 2", "key merging 2", CANDIDATE)
LAYERS_HERE: dict[str, MadeLayer | FirstLayer] = {
    "first layer of the small UNet": FirstLayer(64),
    **{
        name: layer
        for of_model in LAYERS.values()
        for name, layer in of_model.items()
        if "4096" in name
    },
}
Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]  # (B, N, H, D) each, share of blocks


def share_of_keys(tokens: Tokens) -> float:
    """Share of pairs of query and key that leaves as many operations as key merging 2 does.

    Key merging projects fewer keys and values as well, but for those with rotary positions.
    """
    method = METHODS["key merging 2"]
    if tokens.rotary:
        return 1 - method.ratio
    count, width = tokens.normed.shape[1:]
    saved = saved_flops(method, tokens.grid, width, input_shortened)
    return 1 - saved / (4 * count**2 * width)


def exact_blocks(share: float, blocks: int) -> int:
    """That each block of queries chooses; of each other one there is one key in place of 64."""
    return max(1, round((share * BLOCK - 1) / (BLOCK - 1) * blocks))


def squares(grid: TokenGrid) -> Tensor:
    """(N,): places of the tokens, square by square."""
    places = torch.arange(grid.tokens).view(grid.height // EDGE, EDGE, grid.width // EDGE, EDGE)
    return places.transpose(1, 2).flatten()


def sparse(tokens: Tokens, attend: Attend, order: Tensor) -> Tensor:
    """(1, QUERIES or N, C): as `Tokens.attention`, with tokens in this order in `attend`."""
    blocks = len(order) // BLOCK
    ratio = exact_blocks(share_of_keys(tokens), blocks) / blocks
    parts = (x[:, order].unflatten(2, (tokens.heads, -1)).split(1, 2) for x in tokens.projected())
    heads = [attend(*head, ratio) for head in zip(*parts, strict=True)]  # one fits into memory
    return torch.cat(heads, 2).flatten(2)[:, order.argsort()][:, tokens.compared]


@torch.inference_mode()
def errors(model, layer: MadeLayer | FirstLayer, photos: int, attend: Attend) -> dict[str, Tensor]:
    """(photos, 2) by method: sums of squares of the error, and of the plain output."""
    found: dict[str, list] = {}
    for number, photo in enumerate(PHOTOS[:photos]):
        tokens = layer.tokens(model, photo, number)
        orders = {"rows": torch.arange(tokens.grid.tokens), "squares": squares(tokens.grid)}
        plain = tokens.attention()
        outputs = {name: tokens.attention(METHODS[name]) for name in NAMES}
        for kind, order in orders.items():
            outputs[f"block-sparse, {kind}"] = sparse(tokens, attend, order)
        for name, out in outputs.items():
            sums = [x.double().square().sum().item() for x in (out - plain, plain)]
            found.setdefault(name, []).append(sums)
    return {name: torch.tensor(sums, dtype=torch.float64) for name, sums in found.items()}


def rows(found: dict[str, Tensor]) -> list[list[str]]:
    """Errors with intervals, and those of key merging and key pairs as shares of each."""
    weights = resamples(len(found[RIVAL]))
    columns = {name: relative(weights, *sums.unbind(1)) for name, sums in found.items()}
    return [
        [name, str(Figure.of(own)), *(str(Figure.of(columns[n] / own)) for n in NAMES[-2:])]
        for name, own in columns.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default=os.environ.get("COMFYUI_PATH"), type=Path)
    parser.add_argument("--photos", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    enter(args.host)
    from comfy_kitchen.backends.eager.sol_attn import sol_attn

    def attend(q: Tensor, k: Tensor, v: Tensor, ratio: float) -> Tensor:
        return sol_attn(q, k, v, topk_ratio=ratio)

    model = LOADERS["small-unet"](Files())
    for name, layer in LAYERS_HERE.items():
        found = rows(errors(model, layer, args.photos, attend))
        print(f"\n{args.photos} photographs, {name}:\n")
        print(
            table(["method", "attention", *(f"{n}, share" for n in NAMES[-2:])], found), flush=True
        )


if __name__ == "__main__":
    main()

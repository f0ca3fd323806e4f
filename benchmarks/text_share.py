"""How much attention text gains when the image's keys are pooled, and what weighing them mends.

    python -m benchmarks.text_share

One joint attention of random projections over an image of smooth and rough parts beside random
text. The share is what image tokens give to text, the error that of the attention's output for
them, relative to the plain one. No model is involved.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.demo_report import table
from bigain_core.methods import KVDownsampling
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.sequence import JointPlan

SIDE, WIDTH, HEADS = 64, 256, 4
TEXTS = (77, 154, 512)
FACTORS = (2, 4)


@dataclass(frozen=True)
class Attention:
    """Queries, keys and values (1, N, C), text first."""

    q: Tensor
    k: Tensor
    v: Tensor


def drawing(generator: torch.Generator) -> Tensor:
    """(1, N, C): noise at a quarter of the resolution, and full noise in the lower half."""
    smooth = torch.randn(1, WIDTH, SIDE // 4, SIDE // 4, generator=generator)
    image = functional.interpolate(smooth, scale_factor=4, mode="bilinear")
    rough = torch.randn(image.shape, generator=generator)
    image[:, :, SIDE // 2 :] += rough[:, :, SIDE // 2 :]
    return image.flatten(2).mT


def attention_inputs(text: int, seed: int = 0) -> Attention:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randn(1, text, WIDTH, generator=generator)
    x = torch.cat([words, drawing(generator)], 1)
    projections = (torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5 for _ in range(3))
    return Attention(*(x @ projection for projection in projections))


def outcome(q: Tensor, k: Tensor, v: Tensor, text: int, bias: Tensor | None = None):
    """Output of attention for the image, and the share of it that goes to text."""
    by_heads = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (q[:, text:], k, v))
    q, k, v = by_heads
    logits = q @ k.mT / q.shape[-1] ** 0.5
    weights = (logits if bias is None else logits + bias[:, None, None]).softmax(-1)
    return weights @ v, weights[..., :text].sum(-1).mean().item()


def row(text: int, factor: int) -> list[str]:
    inputs = attention_inputs(text)
    grid = TokenGrid(SIDE, SIDE, prefix=text)
    plain, share = outcome(inputs.q, inputs.k, inputs.v, text)
    plan = KVDownsampling(factor).plan(grid.image(inputs.v), grid.frame, DenoisingProgress(0.5), 0)
    cells = [str(text), str(factor), f"{share:.1%}"]
    for proportional in (False, True):
        joint = JointPlan(grid, plan, plan.unblended(), proportional)
        k, v = joint.keys(inputs.k), joint.values(inputs.v)
        result, share = outcome(inputs.q, k, v, text, joint.key_bias(k))
        cells += [f"{share:.1%}", f"{(result - plain).norm() / plain.norm():.3f}"]
    return cells


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    head = ["text tokens", "factor", "share", "pooled", "error", "weighed", "error"]
    print(table(head, [row(text, factor) for text in TEXTS for factor in FACTORS]))


if __name__ == "__main__":
    main()

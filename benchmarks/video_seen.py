"""What an eye would see of frames that share keys and values: clips that attention filters.

    python -m benchmarks.video_seen

What a network of random weights makes of a clip is nothing to look at. So here attention filters
the clips of `benchmarks.video` itself, in colour: a token is a square of pixels of the noisy clip
and becomes the mean of all tokens of all frames by how much they are alike, plain and with each
method (non-local means). How much of the difference an eye would see is ColorVideoVDP's judgement
(Mantiuk et al., 2024; pip install --group video), in JOD: 10 is none, one less is seen as worse by
three of four people.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.demo_report import Row, table
from benchmarks.video import CLIPS, COLUMNS, FRAMES, ROWS, clip, methods
from bigain_core.compression.network_call import NetworkCall
from bigain_core.compression.rules import Compression, Rule
from bigain_core.compression.run_log import RunLog
from bigain_core.measure.flops import input_shortened
from bigain_core.methods import Method
from bigain_core.placement import LayerId
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.sequence import JointPlan

SIDE, FINE = 8, 4  # pixels of a token, and of the squares by whose means tokens are alike
LIKENESS = 30.0  # logit of a token with itself
LEVELS = (0.5, 0.2, 0.1)  # share of noise
CONTRAST = 0.18  # standard deviation of pixels around grey
RATE, DISPLAY = 16, "standard_fhd"  # frames a second; where the clips are watched
GRID = TokenGrid(ROWS, COLUMNS, FRAMES)
Judge = Callable[[Tensor, Tensor], float]  # of a clip and its reference, (3, T, H, W) in [0, 1]


def tokens_of(film: Tensor, side: int = SIDE) -> Tensor:
    """(3, T, H, W) -> (1, N, 3 * side**2)"""
    return functional.pixel_unshuffle(film.movedim(1, 0), side).flatten(2).mT.flatten(0, 1)[None]


def film_of(tokens: Tensor) -> Tensor:
    """What `tokens_of` was made from."""
    rows = tokens.unflatten(1, (FRAMES, ROWS, COLUMNS))[0].movedim(3, 1)
    return functional.pixel_shuffle(rows, SIDE).movedim(0, 1)


def filtered(noisy: Tensor, progress: float, method: Method | None = None) -> Tensor:
    """(3, T, H, W): `noisy`, by attention among its tokens."""
    v = tokens_of(noisy)
    coarse = functional.avg_pool2d(noisy.movedim(1, 0), FINE).movedim(0, 1)
    q = k = functional.normalize(tokens_of(coarse, SIDE // FINE), dim=2)
    bias, plan = None, None
    if method is not None:
        point = DenoisingProgress(progress)
        call = NetworkCall(Compression((Rule(method),)), lambda: point, RunLog(), input_shortened)
        if decision := call.visit(LayerId(0, "transformer"), q, GRID):
            plan = JointPlan(decision.grid, decision.plan, decision.plan, True)
            q, k, v = plan.queries(q), plan.keys(k), plan.values(v)
            bias = plan.key_bias(k)
    tokens = functional.scaled_dot_product_attention(q, k, v, bias, scale=LIKENESS)
    return film_of(plan.restore(tokens) if plan else tokens)


def shown(film: Tensor) -> Tensor:
    """In [0, 1]."""
    return (0.5 + CONTRAST * film).clamp(0, 1)


def judged(levels: tuple[float, ...], judge: Judge) -> Iterator[Row]:
    """For each method what `judge` says of each kind of clip, level by level."""
    films = {}
    for kind in CLIPS:
        clean = clip(kind, 3, ROWS * SIDE, COLUMNS * SIDE)[0]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        films[kind] = [((1 - level) * clean + level * noise, 1 - level) for level in levels]
    plain = {kind: [shown(filtered(*film)) for film in made] for kind, made in films.items()}
    for name, method in methods().items():
        cells = [
            " ".join(
                f"{judge(shown(filtered(*film, method)), reference):.2f}"
                for film, reference in zip(films[kind], plain[kind], strict=True)
            )
            for kind in CLIPS
        ]
        yield [*name, *cells]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.set_num_threads(1)
    from pycvvdp import cvvdp

    metric = cvvdp(display_name=DISPLAY, quiet=True, device=torch.device("cpu"))

    def judge(film: Tensor, reference: Tensor) -> float:
        jod, _ = metric.predict(film, reference, dim_order="CFHW", frames_per_second=RATE)
        return jod.item()

    print(f"JOD at {' / '.join(map(str, LEVELS))} of noise, 10 for no difference.\n")
    print(table(["method", "box", *CLIPS], list(judged(LEVELS, judge))))


if __name__ == "__main__":
    main()

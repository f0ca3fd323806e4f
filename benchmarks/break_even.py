"""Where each method breaks even: the thresholds of `bigain_core.compression.break_even`.

    python -m benchmarks.break_even [--device cuda]

One self-attention layer of several sizes, widths and strengths for one image, plain and
compressed in turn. A point is how many operations a setting saves, and how many times as fast it
is; the threshold of a method is the least of its points above which none is slower. One thread, as
what else runs on a machine delays steps on several, and with it the setting that has more steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import torch

from benchmarks.demo_report import table
from benchmarks.speed_blocks import CALLS_PER_TIME, Layer, ours, repeated
from benchmarks.timing import clock_of, gain, machine
from bigain_core.compression.break_even import saved_flops
from bigain_core.measure.flops import input_shortened
from bigain_core.measure.timing import Spread, take_turns
from bigain_core.methods import (
    BlockMerging,
    KeyMerging,
    KeyPairs,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Method,
    SimilarityPruning,
    TokenMerging,
)

OFF = "off"
METHODS: tuple[Method, ...] = (
    *(TokenMerging(ratio) for ratio in (0.3, 0.5, 0.7)),
    *(BlockMerging(ratio) for ratio in (0.3, 0.7)),
    *(SimilarityPruning(ratio) for ratio in (0.3, 0.7)),
    *(KVDownsampling(factor) for factor in (2, 4)),
    *(KVSelection(ratio=ratio) for ratio in (0.5, 0.75)),
    *(KVCellSelection(factor=factor) for factor in (2, 4)),
    *(KeyMerging(1 - 1 / factor**2, cell=factor) for factor in (2, 4)),
    *(KeyPairs(1 - 1 / factor**2) for factor in (2, 4)),
)
SIDES, WIDTHS, BATCH = (4, 8, 12, 16, 24, 32), (320, 640, 1280), 1
SLOWER = 0.98  # less than this is not called noise


@dataclass(frozen=True)
class Point:
    """A setting in one layer."""

    method: Method
    tokens: int
    width: int
    saved: int  # FLOPs
    gain: Spread


def points(device: torch.device, dtype: torch.dtype, rounds: int) -> Iterator[Point]:
    calls = CALLS_PER_TIME.get(device.type, 1)
    for width in WIDTHS:
        for side in SIDES:
            layer = Layer.random(side**2, width, BATCH, device, dtype)
            works = {OFF: lambda layer=layer: layer.shortened(*[layer.x.shape[1]] * 2)}
            works |= {method.name: ours(layer, method).work for method in METHODS}
            works = {name: repeated(work, calls) for name, work in works.items()}
            times = take_turns(works, rounds, warm_up=2, timed=clock_of(device))
            for method in METHODS:
                saved = saved_flops(method, layer.grid, width, input_shortened)
                found = times[method.name].gain_over(times[OFF])
                yield Point(method, side**2, width, saved, found)


def threshold(found: list[Point]) -> int | None:
    """In two digits; None if even the point that saves most is slower."""
    ordered = sorted(found, key=lambda point: point.saved)
    slower = [place for place, point in enumerate(ordered) if point.gain.median < SLOWER]
    first = slower[-1] + 1 if slower else 0
    if first == len(ordered):
        return None
    step = 10 ** max(0, len(str(ordered[first].saved)) - 2)
    return ceil(ordered[first].saved / step) * step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    with torch.inference_mode():
        found = list(points(device, dtype, options.rounds))
    print(f"{machine(device)}, {str(dtype).removeprefix('torch.')}, {options.rounds} rounds\n")
    for kind in dict.fromkeys(type(point.method) for point in found):
        mine = [point for point in found if type(point.method) is kind]
        print(f"{kind.__name__} breaks even at {threshold(mine)} operations\n")
        rows = [
            [p.method.name, f"{p.tokens}", f"{p.width}", f"{p.saved / 1e6:.1f}", gain(p.gain)]
            for p in sorted(mine, key=lambda point: point.saved)
        ]
        print(table(["setting", "tokens", "channels", "MFLOP saved", "gain"], rows), "\n")


if __name__ == "__main__":
    main()

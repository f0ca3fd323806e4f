"""Whole networks at full size: off, every method of ours and other packs, in turn.

    python -m benchmarks.speed --host PATH
    python -m benchmarks.speed --host PATH --models SDXL --sizes 1024 2048 --methods L-GTM tomesd

Random weights, one call for one image as the host makes it, with as many prompts as asked for.
Times are medians between their quartiles; settings take turns, and gains are taken within rounds.
On CUDA weights are fp16, and memory is what the device reports; on the CPU they are fp32, and
memory is that of a dry run (see `benchmarks.dry_run`). Operations are of the dry run, for one
prompt, on both. `benchmarks.speed_blocks` measures one attention layer in the same way.

Attention is torch's fused one, which ComfyUI takes on graphics cards; `--attention host` leaves the
choice to it, which on a CPU is an attention without a fused kernel.

The ceiling is the gain if time went with operations. Its share is the time that was saved by the
time that it promises; above 100 % attention takes more time than its operations say.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from benchmarks.demo_report import Row, table
from benchmarks.dry_run import dry_run
from benchmarks.host import enter_host
from benchmarks.networks import Network, load, networks
from benchmarks.outlines.dit_outline import DIT_XL_2
from benchmarks.peers import peers
from benchmarks.timing import gain, machine, milliseconds
from bigain_core.compression.automatic import AUTO, automatic_rules
from bigain_core.compression.presets import TABLE_3
from bigain_core.compression.rules import Compression, Rule
from bigain_core.measure.benchmark import OFF, Benchmark
from bigain_core.measure.flops import input_shortened, projections_shortened
from bigain_core.methods import KeyMerging, KVDownsampling
from bigain_core.placement import Placement

DEFAULT_MODELS, DEFAULT_SIZES = ("SD 1.5", "DiT-XL/2"), (512, 1024)
PROGRESS = 0.5
COMPRESSIONS = {
    **TABLE_3,
    "IE-KVD factor 4": Compression((Rule(KVDownsampling(4)),)),
    "IE-KVD factor 2, two levels": Compression((Rule(KVDownsampling(), Placement(levels=2)),)),
    "key merging 0.75": Compression((Rule(KeyMerging(0.75)),)),
}
HEAD = ["setting", "ms", "times as fast", "TFLOP", "ceiling", "share of ceiling", "peak MB"]


def settings(model, network: Network, wanted: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Ours and, for a UNet, those of others; all if none is wanted, else those named by a part."""
    from bigain_core.comfyui.model_benchmark import our_settings

    kind = input_shortened if network.is_unet else projections_shortened
    auto = {"BiGain (Auto)": Compression(automatic_rules(AUTO, kind, DIT_XL_2.depth))}
    found = our_settings(model, COMPRESSIONS | auto) | (peers(model) if network.is_unet else {})
    if not network.is_unet:
        del found["IE-KVD factor 2, two levels"]  # a transformer has one level
    return {
        name: overlay
        for name, overlay in found.items()
        if not wanted or any(part in name for part in wanted)
    }


def measured(
    model, network: Network, pixels: int, wanted: Sequence[str], rounds: int, prompts: int
) -> Benchmark:
    """With operations, and on the CPU memory, of the dry run of one prompt."""
    from bigain_core.comfyui.model_benchmark import empty_prompt, measure

    inputs = network.inputs(pixels // network.latent_scale, pixels // network.latent_scale)
    chosen = settings(model, network, wanted)
    latent = torch.zeros(inputs.latent)
    found = measure(model, latent, [empty_prompt(model)] * prompts, chosen, rounds, PROGRESS)
    again = {OFF: {}, **settings(model, network, wanted)}  # whose logs know of no other call
    costs = {name: dry_run(model, inputs, overlay) for name, overlay in again.items()}
    rows = {
        name: replace(
            row,
            flops=costs[name].flops,
            memory=costs[name].peak_bytes if row.memory is None else row.memory,
        )
        for name, row in found.measured.items()
    }
    return replace(found, measured=rows)


def rows(found: Benchmark) -> Iterator[Row]:
    for name, row in found.measured.items():
        ceiling, share = found.ceiling(name), found.share_of_ceiling(name)
        yield [
            name,
            milliseconds(row.times.spread),
            gain(found.gain(name)),
            f"{row.flops / 1e12:.3f}",
            f"{ceiling:.2f}x",
            "-" if share is None else f"{share:.0%}",
            f"{row.memory / 2**20:.0f}",
        ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default=os.environ.get("COMFYUI_PATH"), type=Path)
    parser.add_argument("--models", nargs="+", default=DEFAULT_MODELS, help="full names")
    parser.add_argument("--sizes", nargs="+", type=int, default=DEFAULT_SIZES, help="in pixels")
    parser.add_argument("--methods", nargs="+", default=(), help="parts of names; else all")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=1, help="in one call; 2 with guidance")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--attention", choices=("fused", "host"), default="fused")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=found)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    enter_host(args.host, cpu=args.device == "cpu")
    from comfy.cli_args import args as host_args

    host_args.use_pytorch_cross_attention = args.attention == "fused"
    from comfy.ldm.modules.attention import optimized_attention

    from bigain_core.comfyui.model_benchmark import uncompressed

    available, start = networks(), monotonic()
    attention = optimized_attention.__name__
    print(f"{machine(torch.device(args.device))}, {attention}, {args.rounds} rounds")
    for name in args.models:
        network = available[name]
        model = uncompressed(
            load(network, torch.float16 if args.device == "cuda" else torch.float32)
        )
        for pixels in args.sizes:
            found = measured(model, network, pixels, args.methods, args.rounds, args.prompts)
            print(f"\n{name}, {pixels} px ({monotonic() - start:.0f} s so far)\n")
            print(table(HEAD, list(rows(found))), flush=True)
        del model


if __name__ == "__main__":
    main()

"""How fast one self-attention layer gets, ours beside its peers: python -m benchmarks.speed_blocks

The layer is norm, projections to queries, keys and values, torch's fused attention and the output
projection, as `norm1` and `attn1` of a UNet's transformer block. All settings take turns on the
same random tokens; times are medians between quartiles, gains those of the rounds. The ceiling is
the same layer with as many queries and keys as the setting leaves, which nobody had to decide on,
merge or restore. On a GPU each time is that of many calls in a row, waited for once.

tomesd comes from its package, the host's nodes from a ComfyUI given by --host.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.demo_report import Row, table
from benchmarks.host import enter_host
from benchmarks.peers import HOST_TOME, RATIO, patched_by_host
from benchmarks.timing import gain, machine, milliseconds
from bigain_core.measure.flops import input_shortened
from bigain_core.measure.timing import Times, Work, take_turns
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
from bigain_core.schedules import AlphaSchedule, DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.plans import MergePlan, Plan, key_mask

OFF = "off"
METHODS: Mapping[str, Method] = {
    "L-GTM 0.7": TokenMerging(RATIO),
    "ToMe 0.7": TokenMerging(RATIO, "random"),
    "adaptive block merge 0.7": BlockMerging(RATIO),
    "SiTo 0.7": SimilarityPruning(RATIO),
    "IE-KVD factor 2": KVDownsampling(2),
    "IE-KVD factor 4": KVDownsampling(4),
    "ToDo factor 2": KVDownsampling(2, AlphaSchedule(1, 1)),
    "average factor 2": KVDownsampling(2, AlphaSchedule(0, 0)),
    "KV selection 0.75": KVSelection(),
    "KV selection per cell": KVCellSelection(),
    "IE-KVD factor 2, random places": KVDownsampling(2, random_places=True),
    "key merging 0.75": KeyMerging(),
    "key pairs 0.75": KeyPairs(),
    # As in a new node:
    "L-GTM 0.7, keys weighed": TokenMerging(RATIO, proportional=True),
    "ToMe 0.7, keys weighed": TokenMerging(RATIO, "random", proportional=True),
}
CACHED = "L-GTM 0.7, assignment cached"

TOKENS, WIDTHS, BATCHES = (1024, 4096, 9216, 16384), (320, 640, 1280), (1, 2, 8)
# Of SD 1.5 at 512, 768 and 1024 px and of SDXL at 1024 px, prompt and negative prompt in one batch.
USUAL = ((1024, 640, 2), (4096, 320, 2), (4096, 640, 2), (9216, 320, 2), (16384, 320, 2))
# Of 40 channels as in SD 1.5, of 64 as in SDXL, 72 as in DiT-XL/2, 128 as in Flux.
HEADS = {320: 8, 640: 10, 1280: 20, 1152: 16, 3072: 24}
CALLS_PER_TIME = {"cpu": 1, "cuda": 20}


@dataclass(frozen=True, eq=False)
class Layer:
    """Norm and self-attention with random weights, and the input (B, N, C) they work on."""

    x: Tensor
    norm: torch.nn.LayerNorm
    projections: Sequence[Tensor]  # (C, C) of queries, keys, values and the output
    heads: int

    @classmethod
    def random(cls, tokens: int, width: int, batch: int, where: torch.device, dtype) -> Layer:
        """Tokens are smooth over the image, with some noise."""
        generator = torch.Generator().manual_seed(0)
        side = round(tokens**0.5)
        coarse = torch.randn(batch, width, side // 4, side // 4, generator=generator)
        x = functional.interpolate(coarse, (side, side), mode="bicubic").flatten(2).mT
        x = x + 0.3 * torch.randn(x.shape, generator=generator)
        weights = [torch.randn(width, width, generator=generator) / width**0.5 for _ in range(4)]
        weights = [weight.to(where, dtype) for weight in weights]
        norm = torch.nn.LayerNorm(width).to(where, dtype)
        return cls(x.to(where, dtype).contiguous(), norm, weights, HEADS[width])

    @property
    def grid(self) -> TokenGrid:
        side = round(self.x.shape[1] ** 0.5)
        return TokenGrid(side, side)

    def attention(self, queries: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, Nq, C) and (B, Nk, C) -> (B, Nq, C). More queries than keys are tiles of an image.

        A mask is (B, 1, Nk).
        """
        mask = None if mask is None else mask[:, None]

        def by_heads(x: Tensor) -> Tensor:
            x = x.reshape(queries.shape[0], -1, self.heads, x.shape[-1] // self.heads)
            return x.transpose(1, 2)

        *inputs, out = self.projections
        q, k, v = (
            by_heads(functional.linear(x, weight))
            for x, weight in zip((queries, context, context), inputs, strict=True)
        )
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return functional.linear(y.transpose(1, 2).flatten(2), out)

    def shortened(self, queries: int, context: int) -> Tensor:
        """The layer on its first tokens."""
        normed = self.norm(self.x)
        return self.attention(normed[:, :queries], normed[:, :context])


@dataclass(frozen=True)
class Setting:
    """One way to run a layer: the whole, its steps by name, and what it leaves of N tokens."""

    work: Work
    steps: Mapping[str, Work] = field(default_factory=dict)
    left: tuple[int, int] | None = None  # queries, keys
    deciding_flops: int = 0


def ours(layer: Layer, method: Method, cached: bool = False) -> Setting:
    """A method of ours; `cached` takes a plan over that another layer has made."""

    def decide() -> Plan:
        return method.plan(layer.x, layer.grid, DenoisingProgress(0.5), 0)

    made, normed = decide(), layer.norm(layer.x)
    short = made.queries(normed)

    def merge(plan: Plan, x: Tensor) -> tuple[Tensor, Tensor]:
        queries = plan.queries(x)
        return queries, queries if isinstance(plan, MergePlan) else plan.context(x)

    def whole() -> Tensor:
        plan = made if cached else decide()
        queries, context = merge(plan, layer.norm(layer.x))
        return plan.restore(layer.attention(queries, context, key_mask(plan, context.dtype)))

    def deciding() -> Tensor:
        plan = decide()
        return plan.position if isinstance(plan, MergePlan) else getattr(plan, "chosen", layer.x)

    steps = {"merging": lambda: merge(made, normed)[1], "restoring": lambda: made.restore(short)}
    if not cached:
        steps = {"deciding": deciding, **steps}
    deciding_flops = 0 if cached else method.decision_flops(layer.x.shape[-1], layer.grid)
    return Setting(whole, steps, (made.query_tokens, made.context_tokens), deciding_flops)


def todo_by_interpolation(layer: Layer) -> Setting:
    """ToDo as its authors describe it: torch's nearest sampling of the normed image."""
    count = layer.x.shape[1]
    side = layer.grid.height

    def whole() -> Tensor:
        normed = layer.norm(layer.x)
        image = normed.mT.unflatten(2, (side, side))
        pooled = functional.interpolate(image, (side // 2, side // 2), mode="nearest-exact")
        return layer.attention(normed, pooled.flatten(2).mT)

    return Setting(whole, left=(count, count // 4))


def tomesd_package(layer: Layer) -> Setting:
    """The published package as it patches a block: by the block's input, merging all three."""
    from tomesd.patch import compute_merge

    grid, count = layer.grid, layer.x.shape[1]
    settings = {"ratio": RATIO, "max_downsample": 1, "sx": 2, "sy": 2, "use_rand": True}
    settings |= {"generator": None, "merge_attn": True, "merge_crossattn": False}
    info = {"size": (grid.height, grid.width), "args": {**settings, "merge_mlp": False}}

    def decide() -> tuple[Callable, Callable]:
        merge, _, _, unmerge, *_ = compute_merge(layer.x, info)
        return merge, unmerge

    def whole() -> Tensor:
        merge, unmerge = decide()
        merged = merge(layer.norm(layer.x))
        return unmerge(layer.attention(merged, merged))

    merge, unmerge = decide()
    normed = layer.norm(layer.x)
    short = merge(normed)

    def deciding() -> Tensor:
        decide()
        return layer.x

    steps = {
        "deciding": deciding,
        "merging": lambda: merge(normed),
        "restoring": lambda: unmerge(short),
    }
    left = count - int(count * RATIO)
    matching = TokenMerging(RATIO, "random").decision_flops(layer.x.shape[-1], grid)
    return Setting(whole, steps, (left, left), matching)


class _Recorder:
    """A model that keeps the two patches of self-attention which a node of the host gives it."""

    def clone(self) -> _Recorder:
        return _Recorder()

    def set_model_attn1_patch(self, patch: Callable) -> None:
        self.into = patch

    def set_model_attn1_output_patch(self, patch: Callable) -> None:
        self.out = patch


def host_nodes(layer: Layer) -> Iterator[tuple[str, Setting]]:
    """The host's own nodes, their patches called as its UNet does."""
    count = layer.x.shape[1]
    left = {HOST_TOME: (count - int(count * RATIO), count)}  # it merges queries alone
    for name, patched in patched_by_host(_Recorder()):
        yield name, Setting(_with_patches(layer, patched), left=left.get(name))


def _with_patches(layer: Layer, patched: _Recorder) -> Work:
    options = {"original_shape": (layer.x.shape[0], 4, layer.grid.height, layer.grid.width)}

    def whole() -> Tensor:
        normed = layer.norm(layer.x)
        queries, context, _ = patched.into(normed, normed, normed, options)
        return patched.out(layer.attention(queries, context), options)

    return whole


def settings_of(layer: Layer, with_host: bool) -> dict[str, Setting]:
    count = layer.x.shape[1]
    found = {OFF: Setting(lambda: layer.shortened(count, count), left=(count, count))}
    for name, method in METHODS.items():
        found[name] = ours(layer, method)
        if name == "L-GTM 0.7":
            found[CACHED] = ours(layer, method, cached=True)
    found["ToDo by interpolation"] = todo_by_interpolation(layer)
    try:
        found["tomesd 0.7"] = tomesd_package(layer)
    except ImportError:
        print("tomesd is not installed and left out.")
    return found | (dict(host_nodes(layer)) if with_host else {})


# Measuring


def all_works(layer: Layer, settings: Mapping[str, Setting]) -> dict[str, Work]:
    """Every setting, its steps, and the ceilings, each length once."""
    works = {name: setting.work for name, setting in settings.items()}
    for name, setting in settings.items():
        works |= {f"{name}: {step}": work for step, work in setting.steps.items()}
        if setting.left and name != OFF:
            works[ceiling_of(setting)] = lambda left=setting.left: layer.shortened(*left)
    return works


def ceiling_of(setting: Setting) -> str:
    return f"ceiling {setting.left}"


def repeated(work: Work, calls: int) -> Work:
    def together() -> Tensor:
        for _ in range(calls - 1):
            work()
        return work()

    return together


def peak_bytes(work: Work, device: torch.device) -> int:
    """Most memory that was allocated at a time beyond what there was before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(profile_memory=True) as profiler:
        work()
    changes = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = highest = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


# Tables


def whole_rows(
    layer: Layer, settings: Mapping[str, Setting], times: Mapping[str, Times]
) -> Iterator[Row]:
    batch, count, width = layer.x.shape
    for name, setting in settings.items():
        taken, off = times[name], times[OFF]
        row = [name, milliseconds(taken.spread), gain(taken.gain_over(off))]
        limits = ["", "", ""]
        if setting.left:
            queries, context = setting.left
            limits[0] = f"{queries}, {context}"
            flops = setting.deciding_flops + input_shortened(width, count, queries, context)
            limits[2] = f"{batch * flops / 1e9:.1f}"
        if setting.left and name != OFF:
            limit = times[ceiling_of(setting)]
            resolve = taken.gain_over(limit).median
            limits[1] = f"{limit.gain_over(off).median:.2f}x, {resolve:.0%}"
        peak = f"{peak_bytes(setting.work, layer.x.device) / 2**20:.0f}"
        yield [*row, *limits, peak]


def step_rows(settings: Mapping[str, Setting], times: Mapping[str, Times]) -> Iterator[Row]:
    def share(name: str) -> str:
        return (
            f"{times[name].spread.median / times[OFF].spread.median:.1%}" if name in times else ""
        )

    for name, setting in settings.items():
        if setting.steps:
            steps = [f"{name}: {step}" for step in ("deciding", "merging", "restoring")]
            spent = sum(times[step].spread.median for step in steps if step in times)
            together = f"{spent / times[OFF].spread.median:.1%}"
            yield [name, *map(share, steps), together, share(ceiling_of(setting)), share(name)]


def report(layer: Layer, settings: Mapping[str, Setting], rounds: int) -> str:
    device = layer.x.device
    calls = CALLS_PER_TIME.get(device.type, 1)
    works = {name: repeated(work, calls) for name, work in all_works(layer, settings).items()}
    times = {
        name: Times(tuple(seconds / calls for seconds in taken.seconds))
        for name, taken in take_turns(works, rounds).items()
    }
    batch, count, width = layer.x.shape
    whole = ["setting", "ms", "gain", "queries, keys", "ceiling, reached", "GFLOP", "peak MiB"]
    steps = ["share of off", "deciding", "merging", "restoring", "together", "attention", "whole"]
    parts = [
        f"N = {count}, C = {width}, B = {batch}, {layer.heads} heads",
        table(whole, list(whole_rows(layer, settings, times))),
        table(steps, list(step_rows(settings, times))),
    ]
    return "\n\n".join(parts)


def shapes(tokens: Sequence[int], widths: Sequence[int], batches: Sequence[int]) -> list:
    """The usual shapes, or all combinations where anything is asked for."""
    if not (tokens or widths or batches):
        return list(USUAL)
    return list(product(tokens or TOKENS, widths or WIDTHS, batches or BATCHES))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", choices=TOKENS)
    parser.add_argument("--widths", type=int, nargs="+", choices=WIDTHS)
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--only", nargs="+", help="settings beside off, by the names in the table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--host", default=os.environ.get("COMFYUI_PATH"), type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler would report every start
    if options.host:
        enter_host(options.host, cpu=device.type == "cpu")
    dtype = options.dtype or ("float32" if device.type == "cpu" else "float16")
    print(f"{machine(device)}, {dtype}, {options.rounds} rounds\n")
    with torch.inference_mode():
        for shape in shapes(options.tokens, options.widths, options.batches):
            layer = Layer.random(*shape, device, getattr(torch, dtype))
            settings = settings_of(layer, options.host is not None)
            if options.only:
                settings = {name: settings[name] for name in (OFF, *options.only)}
            print(report(layer, settings, options.rounds), flush=True)
            print()


if __name__ == "__main__":
    main()

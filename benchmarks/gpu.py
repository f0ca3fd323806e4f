"""All that a GPU has to show, in one table to paste: python -m benchmarks.gpu

Needs no host and no download and takes up to eight minutes on one card: how often a layer waits for
the card and the kernels it starts, from where each method breaks even, one layer of each size plain
and compressed in turn beside the tomesd package and ToDo, and every method's result on the card
against the CPU's. What a slow card has no time for is named. `--device cpu --quick` tries the
command itself, on a machine without one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from time import monotonic

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.break_even import METHODS as SETTINGS
from benchmarks.break_even import points, threshold
from benchmarks.demo_report import Row, table
from benchmarks.joint_layer import JointLayer
from benchmarks.kernels import SHAPES, UNET, kernels
from benchmarks.speed_blocks import (
    CALLS_PER_TIME,
    METHODS,
    OFF,
    Layer,
    Setting,
    ours,
    peak_bytes,
    repeated,
    settings_of,
)
from benchmarks.timing import clock_of, gain, machine, milliseconds
from bigain_core.measure.timing import Times, take_turns
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.plans import Plan

# Tokens, channels, batch: the layers that are compressed, prompt and negative prompt together.
SIZES = {
    "SD 1.5, 512 px": (4096, 320, 2),
    "SD 1.5, 1024 px": (16384, 320, 2),
    "SDXL, 512 px": (1024, 640, 2),
    "SDXL, 1024 px": (4096, 640, 2),
    "SDXL, 2048 px": (16384, 640, 2),
    "DiT-XL/2, 512 px": (1024, 1152, 2),
    "Flux, 1024 px": (4096, 3072, 1),
    "SD 1.5, 2048 px": (65536, 320, 2),
}
QUICK = {"SD 1.5, 128 px": (256, 320, 2)}
# The same with tokens of text in front:
JOINT_SIZES = {
    "Flux with text, 1024 px": (512, 4096, 3072, 1),
    "Flux with text, 2048 px": (512, 16384, 3072, 1),
}
QUICK_JOINT = {"with text, 256 px": (32, 256, 320, 1)}
SECONDS = 420  # nothing is begun after so long
TIME_UP = "not measured: the time is up"
FAR = 0.02  # a difference from the CPU, relative to its result, that more than rounding makes


class TimeUpError(Exception):
    """Nothing is begun any more."""


def check_time(until: float) -> None:
    if monotonic() > until:
        raise TimeUpError


def until_time_is_up(rows: Iterable[Row], columns: int) -> Iterator[Row]:
    """The rows that there is time for, and one that says so."""
    try:
        yield from rows
    except TimeUpError:
        yield [TIME_UP, *[""] * (columns - 1)]


def result_rows(device: torch.device, dtype: torch.dtype, until: float) -> Iterator[Row]:
    """How far results are from the CPU's, relative to it, and which tokens a method keeps.

    First of a layer of the image, then of one with text.
    """
    both = (torch.device("cpu"), device)
    layers = [Layer.random(1024, 320, 2, where, dtype) for where in both]
    joint = [JointLayer.random(77, 256, 320, 2, where, dtype) for where in both]
    for name, method in METHODS.items():
        check_time(until)
        off = _difference(*(ours(layer, method).work().cpu() for layer in layers))
        plans = [method.plan(layer.x, layer.grid, DenoisingProgress(0.5), 0) for layer in layers]
        with_text = _difference(*(layer.run(method).cpu() for layer in joint))
        yield [f"{name}, {_word(dtype)}", off, _same_tokens(*plans), with_text]


def _difference(expected: Tensor, found: Tensor) -> str:
    expected, found = expected.float(), found.float()
    off = ((found - expected).norm() / expected.norm()).item()
    return f"{off:.1e}" + (" TOO FAR" if not off <= FAR else "")


def _same_tokens(here: Plan, there: Plan) -> str:
    rows = [getattr(plan, "target", getattr(plan, "chosen", None)) for plan in (here, there)]
    return "" if rows[0] is None else f"{(rows[0] == rows[1].cpu()).double().mean():.2%}"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def launch_rows(device: torch.device, layer: Layer, until: float) -> Iterator[Row]:
    """Kernels and waits beyond those of the plain layer, as the profiler sees them."""
    settings = settings_of(layer, with_host=False)
    plain = _seen(settings[OFF].work, device)
    for name, method in METHODS.items():
        check_time(until)
        seen = _seen(settings[name].work, device)
        added = [f"{a - b}" for a, b in zip(seen, plain, strict=True)]
        yield [name, *added, f"{kernels(method, SHAPES[UNET])}"]


def _seen(work, device: torch.device) -> tuple[int, int]:
    """Kernels that ran and calls that waited; on a CPU, which has neither, operators and none."""
    work()
    on_card = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        work()
    events = profiler.events()
    if not on_card:
        return sum(event.name.startswith("aten::") for event in events), 0
    started = sum("LaunchKernel" in event.name for event in events)
    # The profiler itself waits once at its end.
    return started, sum("Synchronize" in event.name for event in events) - 1


def speed_rows(
    device: torch.device, dtype: torch.dtype, sizes: dict, rounds: int, until: float
) -> Iterator[Row]:
    calls = CALLS_PER_TIME.get(device.type, 1)
    for size, shape in sizes.items():
        try:
            check_time(until)
            settings = _settings(shape, device, dtype)
            works = {name: repeated(each.work, calls) for name, each in settings.items()}
            times = take_turns(
                works, rounds, before_each=lambda name: check_time(until), timed=clock_of(device)
            )
        except TimeUpError:
            yield [size, TIME_UP, "", "", ""]
            continue
        for name, setting in settings.items():
            taken = times[name]
            each = Times(tuple(seconds / calls for seconds in taken.seconds))
            peak = f"{peak_bytes(setting.work, device) / 2**20:.0f}"
            yield [size, name, milliseconds(each.spread), gain(taken.gain_over(times[OFF])), peak]


def _settings(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> dict[str, Setting]:
    """Of a layer of the image or, where the shape begins with tokens of text, with these."""
    if len(shape) == 4:
        return JointLayer.random(*shape, device, dtype).settings()
    return settings_of(Layer.random(*shape, device, dtype), with_host=False)


def break_even_rows(
    device: torch.device, dtype: torch.dtype, rounds: int, until: float
) -> Iterator[Row]:
    found = []
    for point in points(device, dtype, rounds):
        found.append(point)
        check_time(until)
    for kind in dict.fromkeys(type(method) for method in SETTINGS):
        least = threshold([point for point in found if type(point.method) is kind])
        yield [kind.__name__, "none" if least is None else f"{least:,}"]


def report(device: torch.device, dtypes: Sequence[torch.dtype], quick: bool) -> Iterator[str]:
    """Parts of a Markdown page."""
    until, rounds = monotonic() + SECONDS, 1 if quick else 5
    sizes = QUICK | QUICK_JOINT if quick else SIZES | JOINT_SIZES

    def part(columns: list[str], rows: Iterable[Row]) -> str:
        return table(columns, list(until_time_is_up(rows, len(columns))))

    yield f"## {machine(device)}"
    layer = Layer.random(*next(iter(sizes.values())), device, dtypes[0])
    columns = ["added to a layer", "kernels", "waits", "counted on fake tensors"]
    yield part(columns, launch_rows(device, layer, until))
    if not quick:
        columns = ["break-even", "operations that a layer must save"]
        yield part(columns, break_even_rows(device, dtypes[0], 3, until))
    for dtype in dtypes:
        yield f"One layer in {_word(dtype)}, {rounds} rounds"
        columns = ["layer", "setting", "ms", "gain", "peak MiB"]
        yield part(columns, speed_rows(device, dtype, sizes, rounds, until))
    # Last, as half precision takes CPUs minutes.
    checked = dict.fromkeys((torch.float32, *dtypes))
    results = chain.from_iterable(result_rows(device, dtype, until) for dtype in checked)
    columns = ["1024 tokens", "difference from the CPU", "same tokens", "difference with text"]
    yield part(columns, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="one small layer, once")
    options = parser.parse_args()
    device = torch.device(options.device)
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler would report every start
    dtypes = (torch.float32,) if device.type == "cpu" else (torch.float16, torch.bfloat16)
    with torch.inference_mode():
        parts = []
        for part in report(device, dtypes, options.quick):
            print(part, end="\n\n", flush=True)
            parts.append(part)
    if any("TOO FAR" in part for part in parts):
        raise SystemExit(f"A result differs from the CPU's by more than {FAR:.0%}.")


if __name__ == "__main__":
    main()

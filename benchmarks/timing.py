"""How measured times are written down: the machine, and numbers with their spread.

The measuring itself is `bigain_core.measure.timing`, which the benchmark node uses too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.demo_builtin import cpu_name
from bigain_core.measure.timing import Spread, Work, by_clock


def by_events(work: Work) -> float:
    """Seconds between two events of a CUDA device, as it counts them itself."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def clock_of(device: torch.device) -> Callable[[Work], float]:
    return by_events if device.type == "cuda" else by_clock


def machine(device: torch.device) -> str:
    """What a time was measured on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = cpu_name()
    return f"{name}, torch {torch.__version__}"


def milliseconds(taken: Spread) -> str:
    """Seconds as milliseconds between their quartiles, such as 71.2 (70.8 to 72.5)."""
    times = (1000 * seconds for seconds in (taken.low, taken.median, taken.high))
    low, median, high = (f"{time:.0f}" if time >= 1000 else f"{time:.4g}" for time in times)
    return f"{median} ({low} to {high})"


def gain(found: Spread) -> str:
    """A gain between its quartiles, such as 1.35x (1.31 to 1.38)."""
    return f"{found.median:.2f}x ({found.low:.2f} to {found.high:.2f})"

"""What a network call of each row costs: operations, and milliseconds of calls taken in turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import torch

from benchmarks.paper.models import Model
from benchmarks.paper.tables import OFF, Row, translated
from bigain_core.classification.datasets.result_files import write_atomic

FILE = "cost.json"
PROMPTS = 2  # prompt and negative prompt, as images are generated


@dataclass(frozen=True)
class Cost:
    """`flops` are those of a call for one sample; seconds of a call with PROMPTS samples.

    `gain`: times as fast as "off". Times and gains are (low quartile, median, high quartile).
    """

    flops: int
    seconds: Sequence[float]
    gain: Sequence[float]

    @property
    def per_sample(self) -> float:
        """Median seconds."""
        return self.seconds[1] / PROMPTS


def read_costs(folder: Path) -> dict[str, Cost]:
    path = folder / FILE
    if not path.exists():
        return {}
    return {name: Cost(**cost) for name, cost in json.loads(path.read_text("utf-8")).items()}


def measure_costs(
    model: Model, asked: Sequence[str], rows: Mapping[str, Row], rounds: int, folder: Path
) -> dict[str, Cost]:
    """Costs of all rows; those that are not on the disk are measured in turn and added there."""
    from bigain_core.comfyui.model_benchmark import measure, our_settings, uncompressed

    known = read_costs(folder)
    missing = [name for name in rows if name not in known]
    if not missing:
        return known
    patcher, prompts = uncompressed(model.loaded.patcher), model.loaded.encode(asked[:PROMPTS])
    compressions = {
        name: translated(rows[name].compression, model.places) for name in missing if name != OFF
    }
    latent, wanted = torch.zeros(1, *model.loaded.latent_shape), our_settings(patcher, compressions)
    found = measure(patcher, latent, prompts, wanted, rounds)
    for name in missing:
        times, gain = found.measured[name].times.spread, found.gain(name)
        known[name] = Cost(found.measured[name].flops, astuple(times), astuple(gain))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / FILE, json.dumps({n: asdict(c) for n, c in known.items()}, indent=1))
    return known

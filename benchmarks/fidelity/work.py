"""What is to be measured with one model, and what it costs; its parts may share the cores."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.fidelity.layers import LAYERS, measure_layers
from benchmarks.fidelity.measuring import measure_generation, measure_predictions
from benchmarks.fidelity.photos import PHOTOS, SIDES, measure_photos
from benchmarks.fidelity.settings import FEW, Setting, settings
from benchmarks.paper.data import bundled_set, small_set
from benchmarks.paper.models import LOADERS, SMALL, Files
from benchmarks.paper.recognition import found_results, slug
from benchmarks.paper.work import enter

BUNDLED = "bundled-dit"
MODELS = (*SMALL, BUNDLED)
PREDICTIONS, GENERATION = "predictions", "generation"
SECONDS = {  # of one core, for a method with one seed and one image, by part
    "small-unet": {
        PREDICTIONS: 1.25, GENERATION: 0.37, "photos-1024": 0.3, "photos-4096": 0.85,
        "photos-16384": 6.0, "layer-made-320-channels-16384-tokens-little-noise": 0.4,
    },
    "small-dit": {PREDICTIONS: 0.9, GENERATION: 0.27, "photos-1024": 0.62, "photos-4096": 4.7},
    BUNDLED: {PREDICTIONS: 5.1, GENERATION: 1.45, "photos-4096": 4.8},
}  # fmt: skip
LAYER_SECONDS = 0.1
COSTLY = 1.4  # seconds, above which a part takes the most important methods


@dataclass(frozen=True)
class Work:
    """What is to be measured with one model; `full` takes all methods also where that is costly."""

    model: str
    host: Path
    out: Path
    images: int
    samples: int
    seeds: int
    photos: int = 0
    tokens: int = 0
    names: Collection[str] = ()
    full: bool = True

    @property
    def folder(self) -> Path:
        return self.out / self.model

    @property
    def grids(self) -> dict[int, Path]:
        """Folders of the results on photographs, by tokens of the finest level."""
        return {tokens: self.folder / f"photos-{tokens}" for tokens in SIDES[self.model]}

    @property
    def layers(self) -> dict[str, Path]:
        """Folders of the results of single layers, by their names."""
        return {name: self.folder / f"layer-{slug(name)}" for name in LAYERS[self.model]}

    @property
    def parts(self) -> dict[str, int]:
        """How many images, by the name of the folder of what is measured of them."""
        grids = (path for tokens, path in self.grids.items() if tokens <= self.tokens)
        photos = dict.fromkeys((p.name for p in (*self.layers.values(), *grids)), self.photos)
        found = {PREDICTIONS: self.images, GENERATION: self.samples, **photos}
        return {part: count for part, count in found.items() if count}

    def settings(self, part: str) -> list[Setting]:
        few = not self.full and self.seconds_each(part) > COSTLY
        return list(settings(self.seeds, self.names or (FEW if few else ())))

    def seconds_each(self, part: str) -> float:
        return SECONDS[self.model].get(part, LAYER_SECONDS)

    def seconds(self, part: str) -> float:
        """Of one core, for what is missing."""
        results = (found_results(self.folder / part, s.file) for s in self.settings(part))
        done = (len(found.records) if found else 0 for found in results)
        return sum(max(self.parts[part] - n, 0) for n in done) * self.seconds_each(part)

    def measure(self, part: str) -> None:
        """Add what is missing."""
        model, folder = LOADERS[self.model](Files()), self.folder / part
        bundled = self.model == BUNDLED
        data = bundled_set(self.samples) if bundled else small_set(self.out, self.samples)
        every, photos = self.settings(part), PHOTOS[: self.photos]
        layers = {path: LAYERS[self.model][name] for name, path in self.layers.items()}
        sides = {path: SIDES[self.model][tokens] for tokens, path in self.grids.items()}
        if part == PREDICTIONS:
            measure_predictions(model, data, data.images.chosen(self.images), every, folder)
        elif part == GENERATION:
            measure_generation(model, data.asked, every, folder)
        elif folder in layers:
            measure_layers(model, layers[folder], every, photos, folder)
        else:
            measure_photos(model, data.labels[0], every, photos, sides[folder], folder)


def measure_all(works: Sequence[Work], workers: int) -> None:
    """Each part in a process of one thread, so many at a time, the longest first."""
    jobs = [(work, part) for work in works for part in work.parts]
    jobs.sort(key=lambda job: -job[0].seconds(job[1]))
    for work, part in jobs:
        count, methods = work.parts[part], len(work.settings(part))
        left = work.seconds(part) / 60
        print(f"{left:6.1f} minutes  {work.model}, {part}: {count} x {methods}", flush=True)
    total = sum(work.seconds(part) for work, part in jobs) / 60
    print(f"{total:6.0f} minutes of one core are left; {workers} share them.", flush=True)
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn")) as pool:
        list(pool.map(_in_process, *zip(*jobs, strict=True)))


def _in_process(work: Work, part: str) -> None:
    torch.set_num_threads(1)
    enter(work.host)
    work.measure(part)

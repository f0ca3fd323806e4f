"""What is to be measured with one model; models may share the cores."""

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
from benchmarks.fidelity.settings import settings
from benchmarks.paper.data import bundled_set, small_set
from benchmarks.paper.models import LOADERS, SMALL, Files
from benchmarks.paper.recognition import slug
from benchmarks.paper.work import enter

BUNDLED = "bundled-dit"
MODELS = (*SMALL, BUNDLED)


@dataclass(frozen=True)
class Work:
    """What is to be measured with one model."""

    model: str
    host: Path
    out: Path
    images: int
    samples: int
    seeds: int
    photos: int = 0
    tokens: int = 0
    names: Collection[str] = ()

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

    def measure(self) -> None:
        model = LOADERS[self.model](Files())
        bundled = self.model == BUNDLED
        data = bundled_set(self.samples) if bundled else small_set(self.out, self.samples)
        every = list(settings(self.seeds, self.names))
        if self.images:
            images = data.images.chosen(self.images)
            measure_predictions(model, data, images, every, self.folder / "predictions")
        measure_generation(model, data.asked, every, self.folder / "generation")
        for name, folder in self.layers.items():
            layer = LAYERS[self.model][name]
            measure_layers(model, layer, every, PHOTOS[: self.photos], folder)
        for tokens, folder in self.grids.items():
            if tokens <= self.tokens:
                side = SIDES[self.model][tokens]
                measure_photos(model, every, PHOTOS[: self.photos], side, folder)


def measure_all(works: Sequence[Work], workers: int) -> None:
    """Each model in a process of one thread, so many at a time."""
    with ProcessPoolExecutor(min(workers, len(works)), get_context("spawn")) as pool:
        list(pool.map(_in_process, works))


def _in_process(work: Work) -> None:
    torch.set_num_threads(1)
    enter(work.host)
    work.measure()

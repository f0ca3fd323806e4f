"""What is to be measured with one model, and how processes share it."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.host import enter_host
from benchmarks.paper.charts import curves, samples, token_maps
from benchmarks.paper.cost import Cost, measure_costs
from benchmarks.paper.data import SETS, Data, small_set, subset
from benchmarks.paper.generation import generate_rows, not_generated
from benchmarks.paper.models import LOADERS, UNETS, Files, Model
from benchmarks.paper.recognition import Share, calls, pending, recognise
from benchmarks.paper.report import Finished
from benchmarks.paper.tables import ROWS, Row, Table
from bigain_core.classification.datasets.evaluation import Job

SMALL_SAMPLES = 320  # eight of each class
ROUNDS = 7
OWN = "own"  # the small models' images


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for."""

    tables: Mapping[str, Table]
    out: Path
    data: str = OWN
    root: Path | None = None
    files: Files = field(default_factory=Files)
    images: int = 0
    samples: int = 0
    subset: Path | None = None
    inception: Path | None = None
    bf16: bool = False


@dataclass(frozen=True)
class Work:
    """All of that with one model."""

    model_name: str
    wanted: Wanted

    @property
    def folder(self) -> Path:
        return self.wanted.out / f"{self.model_name}-{self.wanted.data}"

    @property
    def is_unet(self) -> bool:
        return self.model_name in UNETS

    def data(self) -> Data:
        wanted = self.wanted
        if wanted.data == OWN:
            return small_set(wanted.out, wanted.samples or SMALL_SAMPLES)
        found = SETS[wanted.data](wanted.root)
        found = subset(found, wanted.subset) if wanted.subset else found
        return replace(found, asked=found.asked[: wanted.samples or None])

    def rows(self, kind: str) -> dict[str, Row]:
        """Those whose "recognition" or "generation" is wanted, or the "rows" of any table."""
        names = (name for table in self.wanted.tables.values() for name in getattr(table, kind))
        fit = (name for name in names if self.is_unet or not ROWS[name].unets_only)
        return {name: ROWS[name] for name in fit}

    def load(self) -> Model:
        return LOADERS[self.model_name](self.wanted.files)

    def finished(self, data: Data) -> Finished:
        job = Job(data.images, data.labels, self.wanted.images)
        name = f"{self.model_name}, {data.name}"
        return Finished(name, self.folder, data, job, self.is_unet, self.wanted.inception)

    def prepare(self, processes: int) -> None:
        """Count and time the rows, and say how long all else will take."""
        model, data = self.load(), self.data()
        costs = measure_costs(model, data.asked, self.rows("rows"), ROUNDS, self.folder)
        token_maps(model, data).save(self.folder / "token_maps.png")
        seconds = self.seconds(model, self.finished(data), costs) / processes
        print(f"{self.model_name}: about {seconds / 60:.0f} minutes are left", flush=True)

    def seconds(self, model: Model, found: Finished, costs: Mapping[str, Cost]) -> float:
        """What is left takes on one process, by the times of single calls."""
        data, evaluations = found.data, Counter()
        for name in self.rows("recognition"):
            evaluations[name] += calls(data, pending(found.job, found.recognition, name))
        for name in self.rows("generation"):
            left = not_generated(len(data.asked), Share(), found.generation, name)
            calls_each = len(model.sampling_settings.timesteps) * (
                1 + (model.sampling_settings.guidance != 1)
            )
            evaluations[name] += calls_each * sum(map(len, left))
        return sum(count * costs[name].per_sample for name, count in evaluations.items())

    def measure(self, share: Share) -> None:
        """Do this process's share of what is missing."""
        model, data = self.load(), self.data()
        found = self.finished(data)
        job = replace(found.job, shard=share.shard, shards=share.shards)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.wanted.bf16):
            recognise(model, data, self.rows("recognition"), job, share, found.recognition)
            generate_rows(model, data, self.rows("generation"), share, found.generation)

    def draw(self, found: Finished) -> None:
        """Images of what is there."""
        drawings = {"samples": samples(found)}
        if found.is_small:
            drawings["curves"] = curves(found)
        for name, drawn in drawings.items():
            if drawn:
                drawn.save(self.folder / f"{name}.png", optimize=True)


# Processes


def enter(host: Path, rank: int = 0) -> None:
    """The host in this process, on the device of this rank where there are several."""
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    enter_host(host, cpu=not torch.accelerator.is_available())
    logging.getLogger().setLevel(logging.WARNING)  # the host tells of every run

    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True  # on a CPU the host would take a slower one
    args.fp16_unet = has_cuda  # as published


def launched() -> Share | None:
    """The share of a process that torchrun or accelerate started; None of any other."""
    environment = os.environ
    if "RANK" not in environment:
        return None
    return Share(int(environment["RANK"]), int(environment["WORLD_SIZE"]))


def measure_all(works: Sequence[Work], host: Path, workers: int) -> None:
    """Everything in `workers` processes; in this one if it is one."""
    enter(host)
    torch.set_num_threads(max(torch.get_num_threads() // workers, 1))
    for work in works:
        work.prepare(workers)
    if workers == 1:
        for work in works:
            work.measure(Share())
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        shares = [Share(number, workers) for number in range(workers)]
        jobs = [pool.submit(_in_process, works, host, share) for share in shares]
        for job in jobs:
            job.result()


def _in_process(works: Sequence[Work], host: Path, share: Share) -> None:
    torch.set_num_threads(max(torch.get_num_threads() // share.shards, 1))
    enter(host)
    for work in works:
        work.measure(share)


def measure_launched(works: Sequence[Work], host: Path, share: Share) -> None:
    """The share of a process that a launcher started; the first also counts and times."""
    enter(host, int(os.environ.get("LOCAL_RANK", 0)))
    for work in works:
        if share.shard == 0:
            work.prepare(share.shards)
        work.measure(share)

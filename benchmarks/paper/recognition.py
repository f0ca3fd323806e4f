"""How often each row names what an image shows; one line of results per image and row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from benchmarks.paper.data import Data
from benchmarks.paper.experiments import OwnNoise
from benchmarks.paper.models import Model, precision
from benchmarks.paper.tables import Row
from bigain_core.classification.datasets.evaluation import Job
from bigain_core.classification.datasets.image_folder import LabelledImage
from bigain_core.classification.datasets.result_files import (
    SUFFIX,
    ResultFile,
    Results,
    merged,
    read_results,
    shard_name,
)
from bigain_core.listener import Listener


def slug(row: str) -> str:
    """The name of a row's files."""
    return re.sub(r"[^a-z0-9.]+", "-", row.lower())


@dataclass(frozen=True)
class Share:
    """The part of the work that this process does."""

    shard: int = 0
    shards: int = 1

    def file(self, folder: Path, row: str) -> Path:
        return folder / shard_name(slug(row), self.shard, self.shards)


def found_results(folder: Path, row: str) -> Results | None:
    """Those of a row that all processes wrote so far, however many shared the work."""
    ours = re.compile(re.escape(slug(row)) + rf"(\.\d+-of-\d+)?{re.escape(SUFFIX)}")
    paths = sorted(path for path in folder.glob("*" + SUFFIX) if ours.fullmatch(path.name))
    return merged([read_results(path) for path in paths]) if paths else None


def pending(job: Job, folder: Path, row: str) -> list[LabelledImage]:
    """Images of this share that no process has finished."""
    found = found_results(folder, row)
    return job.pending(found.records if found else {})


def calls(data: Data, images: list[LabelledImage]) -> int:
    """Network evaluations that these images take at most."""
    contests = map(data.contest, images)
    return sum(contest.plan.calls(len(contest.labels)) for contest in contests)


@dataclass(frozen=True)
class _Bar(Listener):
    bar: tqdm

    def on_image(self) -> None:
        self.bar.update()


def recognise(
    model: Model, data: Data, rows: Mapping[str, Row], job: Job, share: Share, folder: Path
) -> None:
    """Add the images of this share that are missing to the results of each row."""
    from bigain_core.comfyui.classifying.folder_evaluation import evaluate
    from bigain_core.comfyui.classifying.identity import settings
    from bigain_core.comfyui.classifying.prompts import Prompts

    template = data.template if model.reads else "{}"
    texts = [template.replace("{}", label) for label in data.labels]
    encoded = dict(zip(data.labels, model.loaded.encode(texts), strict=True))
    every, loaded = Prompts(data.labels, tuple(encoded.values())), model.loaded
    own_plans = sorted({repr(contest.plan) for contest in data.by_contest(data.images.images)})
    for name, row in rows.items():
        left, patcher = pending(job, folder, name), model.compressed(row)
        if not left:
            continue
        made = job.settings(
            texts, data.plan, loaded.image_size, own_plans=own_plans,
            own_noise=row.own_noise, dtype=precision(patcher), **settings(patcher, every),
        )  # fmt: skip
        quiet = share.shard > 0
        with (
            ResultFile(share.file(folder, name), made) as results,
            tqdm(total=len(left), desc=name, mininterval=10, disable=quiet) as bar,
        ):
            for contest, images in data.by_contest(left).items():
                prompts = Prompts(contest.labels, tuple(map(encoded.get, contest.labels)))
                evaluate(
                    patcher, loaded.vae, prompts, replace(job.images, images=tuple(images)),
                    contest.plan, loaded.image_size, results, _Bar(bar),
                    through=OwnNoise if row.own_noise else None,
                )  # fmt: skip

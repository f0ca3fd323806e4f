"""The node that takes a folder through a classifier: measures it by labels, or tags."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from math import inf
from pathlib import Path, PurePosixPath, PureWindowsPath

import folder_paths
from comfy_api.latest import io, ui

from ..bigain_core.classification import PLANS
from ..bigain_core.classification.datasets.evaluation import Job, Summary, comparison
from ..bigain_core.classification.datasets.image_folder import (
    below,
    read_folder,
    resolve_wordnet_ids,
)
from ..bigain_core.classification.datasets.result_files import (
    SUFFIX,
    ResultFile,
    Results,
    merged,
    read_results,
    shard_name,
    write_atomic,
)
from ..bigain_core.comfyui.classifying.folder_evaluation import evaluate
from ..bigain_core.comfyui.classifying.identity import settings
from ..bigain_core.comfyui.dit_model import native_side
from ._host import CallBar, Prompts, schema, send
from ._inputs import advanced, choice, number

USUAL_SIZE = 512  # the paper's
EVENT = "bigain.evaluation"
SECONDS_BETWEEN = 0.5
MAX_ROWS = 100  # that the node shows
SURE = 0.9  # a smaller confidence is marked


class BiGainEvaluate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Recognise",
            node_id="BiGainEvaluate",
            display_name="BiGain Evaluate (Tag a Folder)",
            description="Tags the images of a folder, or measures on a labelled one how often the "
            "classifier is right. Results are saved image by image: a run that was stopped "
            "continues where it was.",
            search_aliases=[
                "tag images",
                "caption folder",
                "tag folder",
                "interrogate",
                "dataset",
                "accuracy",
            ],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that classifies, compressed or not."),
                Prompts.Input(
                    "prompts",
                    tooltip="From BiGain Prompts or BiGain DiT Labels. Labels of the images "
                    "must be spelled like those of the prompts, or be WordNet ids of ImageNet.",
                ),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.String.Input(
                    "folder",
                    default="",
                    placeholder="a folder in ComfyUI/input",
                    tooltip="A folder in ComfyUI's input folder with one folder per class, or "
                    "with a CSV file, or with images alone to have them tagged. Nothing outside "
                    "of the input folder is read.",
                ),
                *advanced(
                    io.String.Input(
                        "csv",
                        default="",
                        placeholder="empty: one folder per class",
                        tooltip="A CSV file in that folder, each row with a file and its label, or "
                        "several labels with ; between them. Empty: folders are named after "
                        "classes.",
                    )
                ),
                io.String.Input(
                    "output",
                    default="bigain/evaluation",
                    tooltip="Name of the results in ComfyUI's output folder. The same name with "
                    "the same settings continues; other settings need another name.",
                ),
                choice(
                    "preset",
                    PLANS,
                    "How trials are chosen and prompts dropped. The paper uses [5, 20] for few "
                    "classes and [5, 20, 100] for a thousand.",
                    default="balanced",
                ),
                number(
                    "size",
                    (0, 0, 4096),
                    "Side of the square that is classified: the short side is resized "
                    "to it and the long one cropped, as in the paper. 0: the size that a DiT was "
                    "made for; 512 for other models.",
                ),
                number(
                    "limit",
                    (0, 0, 10_000_000),
                    "Only this many images, spread evenly over the folder; 0 for all.",
                ),
                *advanced(
                    number(
                        "shard",
                        (1, 1, 10_000),
                        "Which part of the images this run does, from 1. Several machines can "
                        "do one part each.",
                    ),
                    number(
                        "shards",
                        (1, 1, 10_000),
                        "How many parts there are. The summary covers the parts whose results "
                        "are in the output folder.",
                    ),
                    io.String.Input(
                        "compare_with",
                        default="",
                        tooltip="Name of other results of the same images in the output folder, to "
                        "compare with these by McNemar's test.",
                    ),
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="summary",
                    tooltip="Accuracy with its interval, cost, mAP, and what was skipped.",
                ),
                io.Float.Output(
                    display_name="accuracy",
                    tooltip="Share of images whose best prompt is one of their labels.",
                ),
                io.String.Output(
                    display_name="table",
                    tooltip="CSV: one row per class, or one per image where images have no labels.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return float("nan")  # the folder may have changed: never answered from the cache

    @classmethod
    def execute(
        cls, model, prompts, vae, folder, csv, output, preset, size, limit, shard, shards,
        compare_with,
    ) -> io.NodeOutput:  # fmt: skip
        labels = tuple(dict.fromkeys(prompts.classes))
        images = read_folder(Path(folder_paths.get_input_directory()), folder, csv)
        job = Job(resolve_wordnet_ids(images, labels), labels, limit, shard - 1, shards)
        size = size or native_side(model) or USUAL_SIZE
        plan, classes, found = PLANS[preset], list(prompts.classes), settings(model, prompts)
        made = job.settings(prompts.labels, plan, size, classes=classes, **found)
        paths = [_output(output, shard_name("", k, shards)) for k in range(shards)]
        whole, exported = _output(output, SUFFIX), _output(output, ".csv")
        others = read_results(_output(compare_with, SUFFIX)) if compare_with.strip() else None
        with ResultFile(paths[shard - 1], made) as results:
            pending = job.pending(results.records)
            progress = _Progress(len(pending), plan.calls(len(prompts.labels)))
            logging.info(
                f"BiGain: {len(pending)} of {len(job.shard_images)} images to classify, at most "
                f"{progress.total} network evaluations"
            )
            images = replace(images, images=tuple(pending))
            evaluate(model, vae, prompts, images, plan, size, results, progress)
        found = merged([read_results(path) for path in paths if path.exists()])
        summary = Summary(job, found.records)
        if summary.is_complete:
            write_atomic(exported, summary.image_table())
            if shards > 1:
                write_atomic(whole, Results(found.settings, summary.counted).text)
        text = str(summary)
        if others:
            text += f"\nagainst {compare_with}: {comparison(summary.counted, others.records)}"
        shown = _shown(summary, exported if summary.is_complete else paths[shard - 1])
        shown = ui.PreviewText(text).as_dict() | {"bigain_evaluation": [shown | {"text": text}]}
        return io.NodeOutput(text, summary.accuracy, summary.table(), ui=shown)


def _shown(summary: Summary, path: Path) -> dict:
    """What the node shows: a headline, where the file is, and the images that it is least sure of.

    Thumbnails are asked of the server, by the place of the image in the input folder.
    """
    finished, root = summary.finished, Path(folder_paths.get_output_directory())
    words = f"{len(finished)} tagged"
    if summary.job.images.is_labelled:
        words = f"{summary.right} of {len(finished)} right"
    doubtful = sorted(finished, key=lambda record: record["confidence"])
    folder = PurePosixPath(PureWindowsPath(summary.job.images.folder).as_posix())
    return {
        "headline": words,
        "file": path.relative_to(root.resolve()).as_posix(),
        "complete": summary.is_complete,
        "rows": [
            {
                "subfolder": (folder / record["file"]).parent.as_posix(),
                "filename": PurePosixPath(record["file"]).name,
                **{name: record[name] for name in ("file", "best", "confidence", "labels")},
            }
            for record in doubtful[:MAX_ROWS]
        ],
        "unsure": sum(record["confidence"] < SURE for record in finished),
        "images": len(finished),
    }


def _output(name: str, ending: str) -> Path:
    """A file of the results with this name, which may be given with or without its ending."""
    root, name = Path(folder_paths.get_output_directory()), name.strip().removesuffix(SUFFIX)
    below(root, name)
    return below(root, name + ending)


class _Progress(CallBar):
    """The bar under the node; images whose prompts were dropped early count as whole ones."""

    def __init__(self, images: int, calls_per_image: int):
        self.total, self.step, self.images = images * calls_per_image, calls_per_image, 0
        self.started, self.told = time.monotonic(), -inf
        super().__init__(self.total)

    def on_image(self) -> None:
        self.images += 1
        self.bar.update_absolute(self.images * self.step)
        now = time.monotonic()
        if now - self.told >= SECONDS_BETWEEN:
            self.told = now
            left = self.total // max(self.step, 1) - self.images
            content = {"done": self.images, "left": left, "seconds": now - self.started}
            send(EVENT, content)

"""The node that takes a folder through a classifier: measures it by labels, or tags."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..bigain_core.classification import PLANS
from ..bigain_core.classification.datasets.evaluation import Job, Summary, comparison
from ..bigain_core.classification.datasets.image_folder import read_folder, resolve_wordnet_ids
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
from ..bigain_core.comfyui.classifying.latent_classifier import max_calls
from ..bigain_core.comfyui.dit_model import native_side
from ._folders import (
    MAX_ROWS,
    USUAL_SIZE,
    ImageBar,
    folder_choice,
    image_place,
    input_folder,
    output_path,
)
from ._host import Prompts, schema
from ._inputs import advanced, choice, number

EVENT = "bigain.evaluation"
SURE = 0.9  # a smaller confidence is marked


class BiGainEvaluate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Measure",
            node_id="BiGainEvaluate",
            display_name="BiGain Evaluate",
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
                folder_choice(
                    "",
                    "A folder in ComfyUI's input folder with one folder per class, or "
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
        images = read_folder(input_folder(), folder, csv)
        job = Job(resolve_wordnet_ids(images, labels), labels, limit, shard - 1, shards)
        size = size or native_side(model) or USUAL_SIZE
        plan, classes, found = PLANS[preset], list(prompts.classes), settings(model, prompts)
        made = job.settings(prompts.labels, plan, size, classes=classes, **found)
        paths = [output_path(output, shard_name("", k, shards)) for k in range(shards)]
        whole, exported = output_path(output, SUFFIX), output_path(output, ".csv")
        others = read_results(output_path(compare_with, SUFFIX)) if compare_with.strip() else None
        with ResultFile(paths[shard - 1], made) as results:
            pending = job.pending(results.records)
            calls = (
                plan.calls(len(prompts.labels)) if images.is_labelled else max_calls(plan, prompts)
            )
            progress = ImageBar(EVENT, len(pending), calls)
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
    return {
        "headline": words,
        "file": path.relative_to(root.resolve()).as_posix(),
        "complete": summary.is_complete,
        "rows": [
            {
                **image_place(summary.job.images, record["file"]),
                **{name: record[name] for name in ("file", "best", "confidence", "labels")},
                "fits": record.get("fits"),
            }
            for record in doubtful[:MAX_ROWS]
        ],
        "unsure": sum(record["confidence"] < SURE for record in finished),
        "images": len(finished),
    }

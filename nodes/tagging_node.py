"""The node that writes captions for a folder of images, as trainers read them."""

from __future__ import annotations

import logging
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..bigain_core.classification.datasets.image_folder import read_tree
from ..bigain_core.classification.datasets.result_files import SUFFIX, ResultFile, write_atomic
from ..bigain_core.classification.datasets.tagging import CaptionStyle, Tagged, Tagging
from ..bigain_core.classification.results.fit import TRIALS
from ..bigain_core.comfyui.classifying.folder_evaluation import tag
from ..bigain_core.comfyui.classifying.identity import settings
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
from ._inputs import advanced, number

EVENT = "bigain.tagging"


class BiGainTagFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Recognise",
            node_id="BiGainTagFolder",
            display_name="BiGain Tag Folder (Captions)",
            description="Writes captions for training: copies of the images of a folder, each with "
            "a text file of the tags that fit it. A run that was stopped, or a folder that has "
            "grown, goes on where it is.",
            search_aliases=[
                "tag images",
                "tag a folder",
                "caption folder",
                "captions",
                "lora dataset",
                "interrogate",
                "booru",
            ],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that judges, compressed or not."),
                Prompts.Input(
                    "prompts",
                    tooltip="The tags to choose from: from BiGain Prompts or BiGain DiT Labels.",
                ),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                folder_choice(
                    "",
                    "A folder in ComfyUI's input folder; folders in it count as well. Nothing in "
                    "it is changed.",
                ),
                io.String.Input(
                    "output",
                    default="bigain/tagged",
                    tooltip="A folder in ComfyUI's output folder that gets the copies and their "
                    "captions. The same name with the same settings continues.",
                ),
                number(
                    "threshold",
                    (0.5, 0.0, 1.0, 0.01),
                    "A tag is written if the probability that it fits is at least this. That "
                    "probability was calibrated on the bundled model alone: with another model try "
                    "a few images first. Changing it takes no new evaluations.",
                ),
                io.String.Input(
                    "prefix",
                    default="",
                    tooltip="Comes first in every caption, such as the word that triggers a LoRA.",
                ),
                io.String.Input("suffix", default="", tooltip="Comes last in every caption."),
                number(
                    "limit",
                    (0, 0, 10_000_000),
                    "Only this many images, spread evenly over the folder; 0 for all.",
                ),
                *advanced(
                    number(
                        "size",
                        (0, 0, 4096),
                        "Side of the square that is seen: the short side is resized to it and the "
                        "long one cropped. Copies keep their size. 0: the size that a DiT was made "
                        "for; 512 for other models.",
                    )
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="summary",
                    tooltip="How many images got which tags, and what was skipped.",
                ),
                io.String.Output(
                    display_name="table",
                    tooltip="CSV: one row per image with its tags, their probabilities and the "
                    "caption.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return float("nan")  # the folder may have changed: never answered from the cache

    @classmethod
    def execute(
        cls, model, prompts, vae, folder, output, threshold, prefix, suffix, limit, size
    ) -> io.NodeOutput:
        labels = tuple(dict.fromkeys(prompts.classes))
        style, target = CaptionStyle(threshold, prefix, suffix), output_path(output, "")
        tagging = Tagging(read_tree(input_folder(), folder), target, labels, style, limit)
        size = size or native_side(model) or USUAL_SIZE
        made = tagging.settings(prompts.labels, size, settings(model, prompts))
        with ResultFile(output_path(output, SUFFIX), made) as results:
            pending = tagging.pending(results.records)
            progress = ImageBar(EVENT, len(pending), TRIALS * len(prompts.encoded))
            logging.info(
                f"BiGain: {len(pending)} of {len(tagging.chosen)} images to tag, at most "
                f"{progress.total} network evaluations"
            )
            tag(model, vae, prompts, tagging, size, results, progress)
        tagged = Tagged(tagging, results.records)
        text, table = str(tagged), tagged.table()
        write_atomic(output_path(output, ".csv"), table)
        shown = ui.PreviewText(text).as_dict() | {"bigain_tagged": [_shown(tagged, text)]}
        return io.NodeOutput(text, table, ui=shown)


def _shown(tagged: Tagged, text: str) -> dict:
    """What the node shows: how many images are tagged, where they are, and each with its tags.

    Those without tags come first.
    """
    finished, root = tagged.finished, Path(folder_paths.get_output_directory())
    rows = sorted(finished, key=lambda record: bool(tagged.tags(record)))[:MAX_ROWS]
    return {
        "folder": tagged.tagging.target.relative_to(root.resolve()).as_posix(),
        "images": len(finished),
        "without": len(tagged.without),
        "skipped": len(tagged.unreadable),
        "rows": [
            {
                **image_place(tagged.tagging.images, record["file"]),
                "file": record["file"],
                "tags": tagged.tags(record),
            }
            for record in rows
        ],
        "text": text,
    }

"""The node that gives images to try the others with."""

from __future__ import annotations

import shutil
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..bigain_core.classification.datasets.result_files import write_atomic
from ..bigain_core.comfyui.image_files import read_images
from ..bigain_core.models.checkpoint import SAMPLES
from ..bigain_core.text import csv_table
from ._host import schema
from ._inputs import choice

ALL, SIDE = "all", 64
FOLDER = "bigain_samples"  # below ComfyUI's input folder
LABELS = "labels.csv"


class BiGainSampleImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            menu="Recognise",
            node_id="BiGainSampleImages",
            display_name="BiGain Sample Images",
            description="Images that the bundled model has never seen, with their names: to try "
            "classifying, ranking and tagging without files of your own.",
            search_aliases=["example", "test images", "load image"],
            inputs=[choice("images", [ALL, *_files()], "One image by its name, or all of them.")],
            outputs=[
                io.Image.Output(display_name="images", tooltip="As a batch, 64 x 64 pixels."),
                io.String.Output(
                    display_name="names", tooltip="What they show, in this order, one a line."
                ),
                io.String.Output(
                    display_name="folder",
                    tooltip="A folder with copies of all of them in ComfyUI's input folder, for "
                    "BiGain Evaluate; labels.csv there has their names.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images) -> io.NodeOutput:
        files = _files()
        folder = Path(folder_paths.get_input_directory(), FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        for path in files.values():
            shutil.copyfile(path, folder / path.name)
        rows = [(path.name, name) for name, path in files.items()]
        write_atomic(folder / LABELS, csv_table(("file", "label"), rows))
        names = list(files) if images == ALL else [images]
        batch = read_images([files[name] for name in names], SIDE)
        return io.NodeOutput(batch, "\n".join(names), FOLDER)


def _files() -> dict[str, Path]:
    """By what they show."""
    return {path.stem: path for path in sorted(SAMPLES.glob("*.png"))}

"""What nodes that work through a folder share: which folder, where results go, how far they are."""

from __future__ import annotations

import time
from math import inf
from pathlib import Path, PurePosixPath, PureWindowsPath

import folder_paths
from comfy_api.latest import io

from ..bigain_core.classification.datasets.image_folder import LabelledSet, below, folders_in
from ..bigain_core.classification.datasets.result_files import SUFFIX
from ._host import CallBar, send

USUAL_SIZE = 512  # the paper's
SECONDS_BETWEEN = 0.5
MAX_ROWS = 100  # that a node shows


def input_folder() -> Path:
    return Path(folder_paths.get_input_directory())


def folder_choice(default: str, tooltip: str) -> io.Input:
    """A text and not a list, which no other node could be linked to; the panel offers a list."""
    return io.String.Input(
        "folder",
        default=default,
        placeholder="a folder in ComfyUI/input",
        tooltip=tooltip,
        extra_dict={"bigain_folders": folders_in(input_folder())},
    )


def output_path(name: str, ending: str) -> Path:
    """A file of the results with this name, which may be given with or without its ending."""
    root, name = Path(folder_paths.get_output_directory()), name.strip().removesuffix(SUFFIX)
    below(root, name)
    return below(root, name + ending)


def image_place(images: LabelledSet, file: str) -> dict[str, str]:
    """Where the server finds an image of a folder below its input folder."""
    path = PurePosixPath(PureWindowsPath(images.folder).as_posix(), file)
    return {"subfolder": path.parent.as_posix(), "filename": path.name}


class ImageBar(CallBar):
    """The bar under a node and messages of an event to its panel.

    Images whose prompts were dropped early count as whole ones.
    """

    def __init__(self, event: str, images: int, calls_per_image: int):
        self.event, self.total, self.step = event, images * calls_per_image, calls_per_image
        self.images, self.started, self.told = 0, time.monotonic(), -inf
        super().__init__(self.total)

    def on_image(self) -> None:
        self.images += 1
        self.bar.update_absolute(self.images * self.step)
        now = time.monotonic()
        if now - self.told >= SECONDS_BETWEEN:
            self.told = now
            left = self.total // max(self.step, 1) - self.images
            content = {"done": self.images, "left": left, "seconds": now - self.started}
            send(self.event, content)

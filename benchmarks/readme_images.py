"""Draw the images of the README and of the help pages.

    python -m benchmarks.readme_images --host COMFYUI [--only GROUP ...]

The groups: `generated` is what the demo makes, `nodes` what nodes give in ComfyUI, `benchmark` a
measurement there, `panels` what nodes show in Chromium. Everything is done with the bundled model.
tests/host/test_image_files.py draws again what comes out the same every time.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from PIL import Image

from benchmarks.demo import GENERATED
from benchmarks.demo_builtin import BuiltinBackend
from benchmarks.demo_drawing import to_image
from benchmarks.host import enter_host, import_pack
from bigain_core.compression.rules import Compression
from bigain_core.models.checkpoint import BUNDLED_MODEL

PACK = Path(__file__).resolve().parent.parent
COLUMNS = 4
ENLARGED = 2
COLOURS = 128  # the model's grain takes much room otherwise
STEPS, SEED = 20, 0  # as the demo generates
GROUPS = ("generated", "nodes", "benchmark", "panels")
GENERATED_AS = "web/docs/dit_loader"
PANELS = ("docs/in_place", "web/docs/alpha_editor", "web/docs/race", "web/docs/report_view")


def generated() -> Image.Image:
    """What the demo generates, in one image."""
    backend = BuiltinBackend(BUNDLED_MODEL)
    drawings = backend.samples(Compression(), GENERATED, STEPS, SEED, lambda step: None)
    rows = drawings.unflatten(0, (-1, COLUMNS)).transpose(1, 2)  # (R, S, C, S, 3)
    image = to_image(rows.flatten(2, 3).flatten(0, 1))
    size = image.width * ENLARGED, image.height * ENLARGED
    image = image.resize(size, Image.Resampling.NEAREST)
    return image.quantize(COLOURS, dither=Image.Dither.NONE)


def find_tests() -> None:
    """Make `tests` that of this repository: some installed packages bring one of their own."""
    sys.modules["tests"] = tests = ModuleType("tests")
    tests.__path__ = [str(PACK / "tests")]


def drawn(group: str, host: Path) -> Iterator[tuple[str, Image.Image]]:
    """Names without .png, and the images of a group."""
    if group == "generated":
        yield GENERATED_AS, generated()
    elif group == "panels":
        find_tests()
        from benchmarks.images_of_panels import panels

        yield from zip(PANELS, panels(host), strict=True)
    else:
        enter_host(host, cpu=True)
        import_pack()
        from benchmarks.images_of_nodes import DRAWN, MEASURED

        for name, draw in {"nodes": DRAWN, "benchmark": MEASURED}[group].items():
            yield name, draw()


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    host = os.environ.get("COMFYUI_PATH")
    parser.add_argument("--host", default=host, required=not host, type=Path, metavar="COMFYUI")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, metavar="GROUP")
    args = parser.parse_args()
    for group in args.only:
        with torch.inference_mode():  # as ComfyUI runs its nodes
            for name, image in drawn(group, args.host):
                image.save(PACK / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()

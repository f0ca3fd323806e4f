"""Write the images of BiGain Sample Images and of the demo: `python -m benchmarks.sample_images`.

A drawing of every fourth name that the bundled model has never seen, so none is picked for its
result. File names are names.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from benchmarks.demo_drawing import to_image
from benchmarks.drawings import CACHE, CLASS_NAMES, STYLES, Drawings, held_out, read_drawings
from bigain_core.models.checkpoint import SAMPLES

EVERY = 4


def sample_pairs() -> dict[str, int]:
    """The first held-out pair of a name and a style, by every fourth name."""
    pairs = held_out().unflatten(0, (-1, len(STYLES))).int().argmax(1)
    numbers = range(0, len(CLASS_NAMES), EVERY)
    return {CLASS_NAMES[k]: k * len(STYLES) + pairs[k].item() for k in numbers}


def sample_images(drawings: Drawings) -> dict[str, Image.Image]:
    """File names and 64 x 64 images."""
    pairs = sample_pairs()
    pixels = drawings.images(torch.tensor(list(pairs.values())), torch.Generator().manual_seed(0))
    images = map(to_image, pixels.movedim(1, -1) / 2 + 0.5)
    return {f"{name}.png": image for name, image in zip(pairs, images, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE, help="archives of the drawings")
    for name, image in sample_images(read_drawings(parser.parse_args().cache)).items():
        image.save(SAMPLES / name, optimize=True)
        print(f"{SAMPLES.name}/{name}")


if __name__ == "__main__":
    main()

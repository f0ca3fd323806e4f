"""Write the images of BiGain Sample Images and of the demo: `python -m benchmarks.demo_images`.

The first held-out image of each class, so none is picked for its result. File names are classes.
"""

from PIL import Image

from benchmarks.data import CLASS_NAMES, SHAPE_CLASSES, held_out_digits, held_out_shapes
from benchmarks.demo_drawing import to_image
from bigain_core.models.checkpoint import SAMPLES

CLASSES = (
    "checkered disc",
    "row-striped triangle",
    "falling-striped cross",
    "digit 2",
    "digit 5",
    "digit 8",
)


def demo_images() -> dict[str, Image.Image]:
    """File names and 32 x 32 images."""
    kinds = (held_out_shapes(SHAPE_CLASSES), held_out_digits())
    images = {}
    for name in CLASSES:
        label = CLASS_NAMES.index(name)
        found = kinds[label >= SHAPE_CLASSES]
        pixels = found.pixels[found.labels == label][0]  # (3, 32, 32)
        images[f"{name}.png"] = to_image(pixels.movedim(0, -1) / 2 + 0.5)
    return images


def main() -> None:
    for name, image in demo_images().items():
        image.save(SAMPLES / name)
        print(f"{SAMPLES.name}/{name}")


if __name__ == "__main__":
    main()

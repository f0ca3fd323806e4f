"""Labelled images: those held out of the small models, and published data sets in their folders.

A published set is read where it lies, in the layout in which it is distributed:

    imagenet100, imagenet1k   DIR/val/<WordNet id>/*.JPEG
    pets                      DIR/images/*.jpg, DIR/annotations/test.txt
    coco                      DIR/val2017/*.jpg, DIR/annotations/instances_val2017.json and
                              captions_val2017.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.data import (
    CLASS_NAMES,
    SHAPE_CLASSES,
    TEXTURES,
    Images,
    held_out_digits,
    held_out_shapes,
)
from benchmarks.paper.experiments import FixedTimes
from bigain_core.classification import TrialPlan
from bigain_core.classification.datasets.image_folder import (
    LabelledImage,
    LabelledSet,
    read_folder,
    resolve_wordnet_ids,
)
from bigain_core.classification.datasets.imagenet import imagenet_labels
from bigain_core.classification.datasets.labels import label_set
from bigain_core.models.checkpoint import BUNDLED_MODEL, read_checkpoint

SHAPES_EACH, DIGITS_EACH = 15, 6  # held-out images of a class: 450 shapes, 60 digits
SMALL_SIZE = 32
SAMPLES = BUNDLED_MODEL.parent / "samples"
PHOTO, PET = "a photo of a {}.", "a photo of a {}, a type of pet."
FEW, MANY = TrialPlan(), TrialPlan((5, 20, 100))


def _at(*times: int) -> TrialPlan:
    """The paper's rule in 13 evaluations for ten names."""
    return TrialPlan((1, 2), (3, 1), sampler=FixedTimes(times=times))


SHAPE_PLAN, DIGIT_PLAN = _at(100, 50), _at(600, 700)  # where they tell most, see timesteps.py


@dataclass(frozen=True)
class Contest:
    """The labels among which an image is ranked, its own included, and the trials that decide."""

    labels: tuple[str, ...]
    plan: TrialPlan


@dataclass(frozen=True)
class Data:
    """Images, the labels among which they are ranked, and what is to be generated.

    `contests` gives that of the images of a label, where it is not the same for all. `asked` are
    prompts (label, or caption of COCO) in the order of the images that are generated for them; {}
    of `template` is where a label goes for models that read text.
    """

    name: str
    images: LabelledSet
    labels: tuple[str, ...]
    asked: tuple[str, ...]
    plan: TrialPlan
    template: str = "{}"
    contests: Callable[[str], Contest] | None = None
    captions: bool = False

    def contest(self, image: LabelledImage) -> Contest:
        return self.contests(image.labels[0]) if self.contests else Contest(self.labels, self.plan)

    def by_contest(self, images: Iterable[LabelledImage]) -> dict[Contest, list[LabelledImage]]:
        groups: dict[Contest, list[LabelledImage]] = {}
        for image in images:
            groups.setdefault(self.contest(image), []).append(image)
        return groups

    def prompt(self, text: str) -> str:
        """What a model that reads text is asked to generate."""
        return text if self.captions else self.template.replace("{}", text)


# The small models' own


def factors(label: str) -> tuple[str, str]:
    """Shape and texture of a class; a digit is a shape without one."""
    texture, _, shape = label.partition(" ")
    return (label, "") if texture == "digit" else (shape, texture)


def small_contest(label: str) -> Contest:
    """Among ten classes.

    A digit among all digits; another image among those that have its shape or its texture. So a
    wrong choice is wrong in the shape or in the texture alone.
    """
    number = CLASS_NAMES.index(label)
    if number >= SHAPE_CLASSES:
        return Contest(CLASS_NAMES[SHAPE_CLASSES:], DIGIT_PLAN)
    own, count = divmod(number, len(TEXTURES)), len(TEXTURES)
    pairs = ((k, divmod(k, count)) for k in range(SHAPE_CLASSES))
    names = (CLASS_NAMES[k] for k, pair in pairs if pair[0] == own[0] or pair[1] == own[1])
    return Contest(tuple(names), SHAPE_PLAN)


def small_set(folder: Path, samples: int) -> Data:
    """Held-out images, drawn into `folder` if they are not there: every class as often."""
    top = folder / "held-out"
    if not top.is_dir():
        _draw(folder)
    asked = tuple(CLASS_NAMES[k % len(CLASS_NAMES)] for k in range(samples))
    images = read_folder(folder, top.name)
    return Data("small", images, CLASS_NAMES, asked, SHAPE_PLAN, contests=small_contest)


def bundled_set(samples: int) -> Data:
    """The drawings that come with the pack, each among ten names: its own and the next ones."""
    names = read_checkpoint(BUNDLED_MODEL).class_names
    rows = [(path.name, (path.stem,)) for path in SAMPLES.glob("*.png")]

    def contest(label: str) -> Contest:
        first = names.index(label)
        return Contest(tuple(names[(first + k) % len(names)] for k in range(10)), FEW)

    asked = tuple(names[k % len(names)] for k in range(samples))
    images = _listed(SAMPLES.parent, SAMPLES.name, rows)
    return Data("drawings", images, names, asked, FEW, contests=contest)


def _draw(folder: Path) -> None:
    """All at once or not at all: runs may be killed, and others may draw at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(mkdtemp(prefix="held-out.", dir=folder))
    digits = _first_of_each(held_out_digits(), DIGITS_EACH)
    for drawn in (held_out_shapes(SHAPES_EACH * SHAPE_CLASSES), digits):
        for number, (pixels, label) in enumerate(
            zip(drawn.pixels, drawn.labels.tolist(), strict=True)
        ):
            path = part / CLASS_NAMES[label] / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            to_image(pixels).save(path)
    try:
        part.replace(folder / "held-out")
    except OSError:  # another process was faster
        rmtree(part)


def _first_of_each(images: Images, count: int) -> Images:
    labels = images.labels
    places = [(labels == label).nonzero()[:count, 0] for label in labels.unique()]
    chosen = torch.cat(places)
    return Images(images.pixels[chosen], labels[chosen])


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> 8-bit RGB."""
    levels = ((pixels.movedim(0, -1) / 2 + 0.5).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(levels.numpy())


# Published ones


def imagenet(root: Path, subset: str, plan: TrialPlan) -> Data:
    names = imagenet_labels(subset)
    found = read_folder(root, "val")
    own = _numbered(found, (image for image in found.images if image.labels[0] in names))
    words = resolve_wordnet_ids(own, set(names.values()))
    asked = tuple(image.labels[0] for image in words.images)
    return Data(subset, words, tuple(names.values()), asked, plan, PHOTO)


def pets(root: Path) -> Data:
    """Of the test list; a class is the number in its second column."""
    labels = label_set("Oxford-IIIT Pets").labels
    rows = (line.split() for line in _lines(root / "annotations" / "test.txt"))
    images = [(f"{row[0]}.jpg", (labels[int(row[1]) - 1],)) for row in rows]
    found = _listed(root, "images", images)
    asked = tuple(image.labels[0] for image in found.images)
    return Data("Oxford-IIIT Pets", found, labels, asked, FEW, PET)


def coco(root: Path) -> Data:
    """Images without a label are left out of both; an image is generated for its first caption."""
    marked = _json(root / "annotations" / "instances_val2017.json")
    captions = _json(root / "annotations" / "captions_val2017.json")
    names = {category["id"]: category["name"] for category in marked["categories"]}
    labels: dict[int, dict[str, None]] = {image["id"]: {} for image in marked["images"]}
    for note in marked["annotations"]:
        labels[note["image_id"]][names[note["category_id"]]] = None
    words: dict[int, str] = {}
    for note in sorted(captions["annotations"], key=lambda note: note["id"]):
        words.setdefault(note["image_id"], note["caption"].strip())
    files = {image["file_name"]: image["id"] for image in marked["images"] if labels[image["id"]]}
    rows = [(file, tuple(labels[number])) for file, number in sorted(files.items())]
    asked = tuple(words[files[file]] for file, _ in rows)
    known = tuple(name for _, name in sorted(names.items()))
    found = _listed(root, "val2017", rows)
    return Data("COCO", found, known, asked, FEW, PHOTO, captions=True)


SETS: Mapping[str, Callable[[Path], Data]] = {
    "imagenet100": lambda root: imagenet(root, "ImageNet-100", FEW),
    "imagenet1k": lambda root: imagenet(root, "ImageNet-1K", MANY),
    "pets": pets,
    "coco": coco,
}


def subset(data: Data, listed: Path) -> Data:
    """Some images: a text file with a file name in each line, or an array of places (.npy).

    Places count images in the order of their file names.

    Raises ValueError for an image that the set does not have.
    """
    images = data.images.images
    if listed.suffix == ".npy":
        places = np.load(listed).tolist()
        missing = [place for place in places if not 0 <= place < len(images)]
    else:
        by_file = {image.file: place for place, image in enumerate(images)}
        wanted = list(_lines(listed))
        places = [by_file.get(file, -1) for file in wanted]
        missing = [file for file in wanted if file not in by_file]
    if missing:
        raise ValueError(
            f"expected some of the {len(images)} images of {data.name} in {listed.name}, such as "
            f"{images[0].file!r}, got {missing[0]!r}."
        )
    places = sorted(set(places))
    part = _numbered(data.images, (images[place] for place in places))
    return replace(data, images=part, asked=tuple(data.asked[place] for place in places))


def _listed(root: Path, folder: str, rows: Iterable[tuple[str, tuple[str, ...]]]) -> LabelledSet:
    images = (LabelledImage(n, file, labels) for n, (file, labels) in enumerate(sorted(rows)))
    return LabelledSet(root, folder, tuple(images))


def _numbered(found: LabelledSet, images: Iterable[LabelledImage]) -> LabelledSet:
    """A part of a set, numbered from 0."""
    numbered = (replace(image, number=number) for number, image in enumerate(images))
    return replace(found, images=tuple(numbered), empty=())


def _lines(path: Path) -> Iterator[str]:
    """Those that are neither blank nor comments."""
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    return (line for line in lines if line and not line.startswith("#"))


def _json(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))

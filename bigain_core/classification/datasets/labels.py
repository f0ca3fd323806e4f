"""Labels from text, and those of published data sets."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import normalize

from ...text import cell_text
from .imagenet import SUBSETS, imagenet_labels

CLASS_COLUMNS = ("class", "classname", "class_name", "class name")

# Names as the data sets' own lists have them, spelled out where those abbreviate by underscores:
# batches.meta of CIFAR-10 (Krizhevsky 2009), class_names.txt of STL-10 (Coates et al. 2011),
# list.txt of Oxford-IIIT Pets (Parkhi et al. 2012, CC BY-SA 4.0) and the categories of the COCO
# annotations (Lin et al. 2014, CC BY 4.0). The order is that of the class numbers.
SHORT_LISTS = {
    "CIFAR-10": "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck",
    "STL-10": "airplane, bird, car, cat, deer, dog, horse, monkey, ship, truck",
    "Oxford-IIIT Pets": "Abyssinian, American Bulldog, American Pit Bull Terrier, Basset Hound, "
    "Beagle, Bengal, Birman, Bombay, Boxer, British Shorthair, Chihuahua, Egyptian Mau, "
    "English Cocker Spaniel, English Setter, German Shorthaired, Great Pyrenees, Havanese, "
    "Japanese Chin, Keeshond, Leonberger, Maine Coon, Miniature Pinscher, Newfoundland, Persian, "
    "Pomeranian, Pug, Ragdoll, Russian Blue, Saint Bernard, Samoyed, Scottish Terrier, Shiba Inu, "
    "Siamese, Sphynx, Staffordshire Bull Terrier, Wheaten Terrier, Yorkshire Terrier",
    "COCO": "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
    "fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, "
    "bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, "
    "sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, "
    "bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, "
    "carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, "
    "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
    "refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush",
}
LABEL_SETS = (*SHORT_LISTS, *SUBSETS)


@dataclass(frozen=True)
class Labels:
    """What to tell apart; `classes` has the class of each label where several share one.

    `whole` says that the labels are prompts as they stand and go into no template.
    """

    labels: tuple[str, ...]
    classes: tuple[str, ...] = ()
    whole: bool = False


def label_set(name: str) -> Labels:
    """Those of one of LABEL_SETS."""
    if name in SUBSETS:
        return Labels(tuple(imagenet_labels(name).values()))
    return Labels(tuple(SHORT_LISTS[name].split(", ")))


def read_labels(text: str) -> Labels:
    """One label per line, or CSV whose first line names a column "prompt" and a column "class".

    In CSV, with commas, semicolons or tabs, several prompts may share a class. Blank lines before
    and after do not count, and one between labels stays, to be complained about. Letters are
    composed (NFC), and a byte order mark is dropped.
    """
    text = normalize("NFC", text.lstrip("\ufeff")).strip()
    lines = [line.strip() for line in text.splitlines()]
    for separator in ",;\t":
        form = {"delimiter": separator, "skipinitialspace": True}
        header = next(csv.reader(lines[:1], **form), [])
        columns = [cell.strip().lower() for cell in header]
        named = [columns.index(name) for name in CLASS_COLUMNS if name in columns]
        if "prompt" in columns and named:
            rows = list(csv.reader(lines[1:], **form))
            return _from_rows(rows, columns.index("prompt"), named[0], len(columns))
    return Labels(tuple(lines))


def _from_rows(rows: Sequence[list[str]], prompt: int, group: int, columns: int) -> Labels:
    for number, row in enumerate(rows, 2):
        if len(row) != columns or not row[prompt].strip() or not row[group].strip():
            raise ValueError(
                f"BiGain: expected {columns} cells with a prompt and its class on every line of "
                f"the CSV, got {row} on line {number}. Put a prompt with commas into quotes."
            )
    cells = [[cell_text(row[k].strip()) for k in (prompt, group)] for row in rows]
    return Labels(tuple(cell[0] for cell in cells), tuple(cell[1] for cell in cells), whole=True)

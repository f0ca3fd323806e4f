"""Classes of ImageNet, from the data files beside this one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

SUBSETS = {"ImageNet-1K": "imagenet_1k.txt", "ImageNet-100": "imagenet_100.txt"}


def imagenet_labels(subset: str = "ImageNet-1K") -> dict[str, str]:
    """{WordNet id: label} in the order of the class numbers.

    The label is the first synonym, or the second of a class that has one where another class
    begins with the same word in any case: text encoders may not tell "Cardigan" from "cardigan".
    """
    rows = (line.split(" ", 1) for line in _lines(SUBSETS["ImageNet-1K"]))
    synonyms = {wnid: words.split(", ") for wnid, words in rows}
    first = Counter(names[0].lower() for names in synonyms.values())

    def label(names: list[str]) -> str:
        return names[1] if len(names) > 1 and first[names[0].lower()] > 1 else names[0]

    wnids = (line.split(" ", 1)[0] for line in _lines(SUBSETS[subset]))
    return {wnid: label(synonyms[wnid]) for wnid in wnids}


def _lines(file: str) -> list[str]:
    """Without comments."""
    text = Path(__file__).with_name(file).read_text("ascii")
    return [line for line in text.splitlines() if not line.startswith("#")]

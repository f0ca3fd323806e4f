"""Which models to compare, as a user lists them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite

from ...text import abbreviate

LORAS = "loras"


@dataclass(frozen=True)
class ModelFile:
    """A file in one of the host's folders; `strength` is that of a LoRA."""

    folder: str
    file: str
    strength: float = 1.0

    @property
    def name(self) -> str:
        return self.file if self.strength == 1 else f"{self.file}: {self.strength:g}"


def parse_models(text: str, offered: Mapping[str, Sequence[str]]) -> list[ModelFile]:
    """One file on each line, or several by *, a LoRA perhaps with strengths behind a colon.

    `offered` are the names of files below each folder, the first folder with a match counts. The
    files of a line are in natural order (epoch 2 before epoch 10), each with all its strengths.

    Raises ValueError for a line that names none of them, for strengths that are no numbers or not
    of a LoRA, and for a model that is named twice.
    """
    found: list[ModelFile] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        pattern, strengths = _parts(line)
        folder, files = _matches(pattern, offered)
        if strengths and folder != LORAS:
            raise ValueError(
                f"BiGain: expected strengths behind the name of a LoRA, got {line!r}, which lies "
                f"in {folder}. Remove what follows the colon."
            )
        found += [ModelFile(folder, file, s) for file in files for s in strengths or (1.0,)]
    repeated = sorted({one.name for one in found if found.count(one) > 1})
    if repeated:
        raise ValueError(
            f"BiGain: expected different models, got {abbreviate(repeated)} more than once. "
            "Remove one of the lines that name it."
        )
    return found


def _parts(line: str) -> tuple[str, tuple[float, ...]]:
    """What comes before the last colon, and the numbers behind it."""
    name, colon, behind = line.rpartition(":")
    if not colon:
        return line, ()
    try:
        strengths = tuple(float(part) for part in behind.split(","))
    except ValueError:
        strengths = (float("nan"),)
    if not all(map(isfinite, strengths)):
        raise ValueError(
            "BiGain: expected strengths with commas between them behind the colon, such as "
            f"style.safetensors: 0.5, 1, got {line!r}."
        )
    return name.strip(), strengths


def _matches(pattern: str, offered: Mapping[str, Sequence[str]]) -> tuple[str, list[str]]:
    wanted = pattern.replace("\\", "/")
    for folder, files in offered.items():
        names = {file: file.replace("\\", "/") for file in files}
        chosen = [file for file, name in names.items() if fnmatchcase(name, wanted)]
        chosen = chosen or [file for file, name in names.items() if name == wanted]  # "a[1].pt"
        if chosen:
            return folder, sorted(chosen, key=_natural)
    raise ValueError(
        f"BiGain: expected a file in {', '.join(offered)}, got {pattern!r}, which is in none of "
        "them. Write its name as the loader shows it, * stands for anything."
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Runs of digits by their value, so that epoch 2 comes before epoch 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

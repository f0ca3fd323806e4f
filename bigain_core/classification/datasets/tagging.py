"""Tags of the images of a folder: copies with a caption beside each, as trainers read them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath

from ...text import abbreviate, csv_table
from ..results.fit import TRIALS
from .captions import caption_file
from .image_folder import LabelledImage, LabelledSet, UnreadableImageError, below
from .result_files import write_atomic

SEPARATOR = ", "
ENDS = " ,"  # of a prefix or suffix; the separator comes by itself
COLUMNS = ("file", "tags", "caption")


@dataclass(frozen=True)
class CaptionStyle:
    """Which tags a caption has, and what stands around them."""

    threshold: float = 0.5
    prefix: str = ""
    suffix: str = ""

    def tags(self, fits: Mapping[str, float]) -> list[str]:
        """Those whose probability to fit is the threshold or more, the most probable first."""
        chosen = [tag for tag, chance in fits.items() if chance >= self.threshold]
        return sorted(chosen, key=lambda tag: -fits[tag])

    def caption(self, fits: Mapping[str, float]) -> str:
        ends = (self.prefix.strip(ENDS), self.suffix.strip(ENDS))
        return SEPARATOR.join(filter(None, (ends[0], *self.tags(fits), ends[1])))


@dataclass(frozen=True)
class Tagging:
    """Images, and the folder `target` that gets their copies; nothing else is written.

    Raises ValueError where that folder and the one of the images lie in each other.
    """

    images: LabelledSet
    target: Path
    labels: tuple[str, ...]
    style: CaptionStyle
    limit: int = 0

    def __post_init__(self):
        source = below(self.images.root, self.images.folder)
        if source == self.target or {source, self.target} & {*source.parents, *self.target.parents}:
            raise ValueError(
                "BiGain: expected an output outside of the folder of the images, got "
                f"{self.target.name!r}, which would change it. Choose another name."
            )

    def settings(self, prompts: Sequence[str], size: int, model: Mapping) -> dict:
        """What results must have in common; captions are made of them anew in every run."""
        return {
            "folder": PureWindowsPath(self.images.folder).as_posix(),
            "prompts": list(prompts),
            "tags": list(self.labels),
            "trials": TRIALS,
            "size": size,
            **model,
        }

    @cached_property
    def chosen(self) -> tuple[LabelledImage, ...]:
        """`limit` of the images, all for 0."""
        return self.images.chosen(self.limit)

    def is_finished(self, image: LabelledImage, record: Mapping) -> bool:
        """Whether a record has the probabilities of an image as it is now."""
        fits = record.get("fits")
        if not isinstance(fits, dict) or fits.keys() != set(self.labels):
            return False
        try:
            return record.get("content") == self.images.content(image)
        except UnreadableImageError:
            return False

    def pending(self, records: Mapping[str, dict]) -> list[LabelledImage]:
        """Images without probabilities; unreadable ones get another chance."""
        return [
            image
            for image in self.chosen
            if not self.is_finished(image, records.get(image.file, {}))
        ]

    def text(self, file: str) -> Path:
        """Where the caption of an image is written."""
        return below(self.target, caption_file(file))

    def clashes(self, records: Mapping[str, dict]) -> dict[str, str]:
        """By their file, images whose caption would be that of another one, which it names.

        a.jpg and a.png would share a.txt: those that were tagged before others keep it.
        """
        owners, found = {}, {}
        for image in sorted(self.chosen, key=lambda i: not self._was_tagged(records, i)):
            owner = owners.setdefault(caption_file(image.file).casefold(), image.file)
            if owner != image.file:
                found[image.file] = owner
        return found

    def _was_tagged(self, records: Mapping[str, dict], image: LabelledImage) -> bool:
        return "caption" in records.get(image.file, {})

    def written(self, image: LabelledImage, fits: Mapping[str, float], before: Mapping) -> dict:
        """The record of an image, once its copy and its caption are in the output folder.

        `before` is its last record. A caption that somebody has changed since stays as it is.

        Raises UnreadableImageError where something else lies in place of the copy, and ValueError
        where the disk is full.
        """
        content, caption = self.images.content(image), self.style.caption(fits)
        copy = below(self.target, image.file)
        text = self.text(image.file)
        copy.parent.mkdir(parents=True, exist_ok=True)
        found = _digest(copy)
        if found != content:
            if found not in (None, before.get("content")):
                raise UnreadableImageError("another file of that name is in the output folder")
            write_atomic(copy, self.images.path(image).read_bytes())
        if _digest(text) in (None, _digest_of(before.get("caption", caption))):
            write_atomic(text, caption)
        return {"file": image.file, "content": content, "fits": dict(fits), "caption": caption}

    def rewritten(self, image: LabelledImage, record: Mapping) -> dict:
        """The same of an image that was judged before."""
        return self.written(image, record["fits"], record)


@dataclass(frozen=True)
class Tagged:
    """What the records of a tagging add up to, by the file of their image."""

    tagging: Tagging
    records: Mapping[str, dict]

    @cached_property
    def finished(self) -> list[dict]:
        """Records of images as they are now, in the order of the set."""
        records = self.records
        return [
            records[image.file]
            for image in self.tagging.chosen
            if self.tagging.is_finished(image, records.get(image.file, {}))
        ]

    @property
    def unreadable(self) -> list[dict]:
        found = (self.records.get(image.file, {}) for image in self.tagging.chosen)
        return [record for record in found if "unreadable" in record]

    def tags(self, record: Mapping) -> list[tuple[str, float]]:
        """Those of an image with their probabilities, the most probable first."""
        return [(tag, record["fits"][tag]) for tag in self.tagging.style.tags(record["fits"])]

    @cached_property
    def without(self) -> list[str]:
        """Files of images that no tag fits."""
        return [record["file"] for record in self.finished if not self.tags(record)]

    @cached_property
    def changed(self) -> list[str]:
        """Files of images whose caption is no longer the one that was written."""
        return [
            record["file"]
            for record in self.finished
            if _digest(self.tagging.text(record["file"])) != _digest_of(record["caption"])
        ]

    def __str__(self) -> str:
        counts = Counter(tag for record in self.finished for tag, _ in self.tags(record))
        common = abbreviate([f"{tag} ({count})" for tag, count in counts.most_common()])
        lines = [f"{len(self.finished)} images with {counts.total()} tags: {common or 'none'}"]
        removed = sorted(self.records.keys() - {i.file for i in self.tagging.images.images})
        broken = [f"{record['file']} ({record['unreadable']})" for record in self.unreadable]
        for files, what in (
            (self.without, "without a tag that fits"),
            (self.changed, "with a caption that was changed since, which stays"),
            (broken, "skipped"),
            (removed, "no longer in the folder; their copies stay"),
        ):
            if files:
                lines.append(f"{len(files)} {what}: {abbreviate(files)}")
        return "\n".join(lines)

    def table(self) -> str:
        """CSV with a row per image."""
        rows = (
            [
                record["file"],
                "; ".join(f"{tag} {chance:.3g}" for tag, chance in self.tags(record)),
                record["caption"],
            ]
            for record in self.finished
        )
        return csv_table(COLUMNS, rows)


def _digest_of(caption: str) -> str:
    return hashlib.sha256(caption.encode(errors="backslashreplace")).hexdigest()[:16]


def _digest(path: Path) -> str | None:
    """As `LabelledSet.content`; None where there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None

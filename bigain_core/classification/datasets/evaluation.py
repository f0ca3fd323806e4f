"""How often a classifier is right on a labelled set, and what it says of one without labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from pathlib import PureWindowsPath

from ...text import abbreviate, csv_table
from ..elimination.trial_plan import TrialPlan
from ..results.ranking import RANKINGS, Ranking
from .image_folder import LabelledImage, LabelledSet, UnreadableImageError, known_labels
from .metrics import average_precision, mcnemar, wilson_interval

NUMBER = int | float
FIELDS = {  # of a record of a classified image; one without them was changed by hand
    "content": str, "labels": list, "best": str, "right": bool | None, "margin": NUMBER,
    "confidence": NUMBER, "calls": NUMBER, "precision": dict,
}  # fmt: skip


def is_classified(record: Mapping) -> bool:
    """Whether a record has all that is read of a classified image."""
    typed = all(name in record and isinstance(record[name], FIELDS[name]) for name in FIELDS)
    return typed and (not record["labels"] or record["precision"].keys() >= set(RANKINGS))


@dataclass(frozen=True)
class Job:
    """The images of a set that are to be classified among `labels`, which are all different.

    Each of the shards (from 0) has the images whose names fall to it, so that an image stays where
    it is when others come. Images that have labels, none of which is among the prompts, are left
    out.
    """

    images: LabelledSet
    labels: tuple[str, ...]
    limit: int = 0
    shard: int = 0
    shards: int = 1

    def __post_init__(self):
        if not 0 <= self.shard < self.shards:
            raise ValueError(
                f"BiGain: expected a shard from 1 to {self.shards}, got {self.shard + 1}."
            )
        if not self.all_images:
            raise ValueError(
                "BiGain: expected images with labels that are among the prompts, got none; they "
                f"are labelled {abbreviate(self.unknown_labels)}. Labels and prompts must be "
                "spelled alike."
            )

    @cached_property
    def _prompts(self) -> frozenset[str]:
        return frozenset(self.labels)

    @cached_property
    def all_images(self) -> tuple[LabelledImage, ...]:
        """Of all shards."""
        return tuple(image for image in self.images.chosen(self.limit) if self._counts(image))

    @property
    def shard_images(self) -> tuple[LabelledImage, ...]:
        """Of this shard."""
        return tuple(image for image in self.all_images if self._shard_of(image) == self.shard)

    def _shard_of(self, image: LabelledImage) -> int:
        name = image.file.encode(errors="surrogateescape")
        return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") % self.shards

    def _known(self, image: LabelledImage) -> list[str]:
        return list(known_labels(image, self._prompts))

    def _counts(self, image: LabelledImage) -> bool:
        return not image.labels or bool(self._known(image))

    def is_finished(self, image: LabelledImage, record: Mapping) -> bool:
        """Whether a record is the classification of an image as it is now: its file, its labels."""
        if not is_classified(record) or record["labels"] != self._known(image):
            return False
        try:
            return record["content"] == self.images.content(image)
        except UnreadableImageError:
            return False

    def pending(self, records: Mapping[str, dict]) -> list[LabelledImage]:
        """Those of this shard that are not classified; unreadable ones get another chance."""
        return [
            image
            for image in self.shard_images
            if not self.is_finished(image, records.get(image.file, {}))
        ]

    @cached_property
    def left_out(self) -> tuple[LabelledImage, ...]:
        return tuple(image for image in self.images.chosen(self.limit) if not self._counts(image))

    @cached_property
    def unknown_labels(self) -> tuple[str, ...]:
        found = {label for image in self.images.chosen(self.limit) for label in image.labels}
        return tuple(sorted(found - set(self.labels)))

    def settings(self, prompts: Sequence[str], plan: TrialPlan, size: int, **others) -> dict:
        """What results must have in common; `size` is the side of the square that is seen.

        The images are not among it: each record says for itself which image it is of.
        """
        return {
            "folder": PureWindowsPath(self.images.folder).as_posix(),
            "prompts": list(prompts),
            "plan": repr(plan),
            "size": size,
            **others,
        }


def unreadable_record(image: LabelledImage, error: Exception) -> dict:
    return {"file": image.file, "unreadable": str(error)}


def record(image: LabelledImage, content: str, ranking: Ranking, classes: Sequence[str]) -> dict:
    """What is kept of the ranking of one image; `classes` are what its prompts stand for.

    It does not depend on what else is in the set; `content` tells its file from other ones.

    Where several prompts stand for one class, the best of them is its place in the ranking. Without
    labels nothing is right or wrong, and there is no precision, but whether the best fits at all.
    """
    place = {name: number for number, name in enumerate(dict.fromkeys(classes))}
    known = known_labels(image, place)
    wanted = [place[label] for label in known]
    ranked = {
        kind: list(dict.fromkeys(place[classes[k]] for k in ranking.ranked(kind)))
        for kind in RANKINGS
    }
    best = classes[ranking.best]
    return {
        "file": image.file,
        "content": content,
        "labels": list(known),
        "best": best,
        "right": best in known if known else None,
        "margin": ranking.margin,
        "confidence": ranking.confidence,
        "calls": ranking.spent,
        "precision": {
            kind: average_precision(order, wanted) for kind, order in ranked.items() if wanted
        },
        "ranked": ranked["paired"],
        **({} if known else {"fits": _number(ranking.fits)}),
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if isnan(value) else value


COLUMNS = ("image", "file", "labels", "best", "right", "margin", "confidence", "calls")
ABOUT_LABELS = ("labels", "right")


@dataclass(frozen=True)
class Summary:
    """What the records of a job add up to, those of all its shards that are there.

    `records` are by the file of their image. Those of images that are no longer there, or have
    changed since, do not count.
    """

    job: Job
    records: Mapping[str, dict]

    @cached_property
    def counted(self) -> dict[str, dict]:
        """Records of images as they are now, in the order of the set."""
        found = ((image, self.records.get(image.file, {})) for image in self.job.all_images)
        return {
            image.file: record
            for image, record in found
            if "unreadable" in record or self.job.is_finished(image, record)
        }

    @cached_property
    def unreadable(self) -> list[dict]:
        return [record for record in self.counted.values() if "unreadable" in record]

    @cached_property
    def finished(self) -> list[dict]:
        """Records of classified images in the order of the set."""
        return [record for record in self.counted.values() if "unreadable" not in record]

    @cached_property
    def removed(self) -> list[str]:
        """Files that have a result and are no longer in the set."""
        return sorted(self.records.keys() - {image.file for image in self.job.images.images})

    @property
    def right(self) -> int:
        return sum(record["right"] is True for record in self.finished)

    @property
    def is_complete(self) -> bool:
        return len(self.finished) + len(self.unreadable) == len(self.job.all_images)

    @property
    def accuracy(self) -> float:
        """Share of images whose best prompt is one of their labels; NaN without any."""
        counted = len(self.finished) if self.job.images.is_labelled else 0
        return self.right / counted if counted else float("nan")

    @property
    def calls(self) -> float:
        """Network evaluations per image."""
        finished = self.finished
        return sum(record["calls"] for record in finished) / len(finished)

    def mean_average_precision(self, kind: str) -> float:
        """mAP (paper, S.18) under one of RANKINGS."""
        finished = self.finished
        return sum(record["precision"][kind] for record in finished) / len(finished)

    @property
    def has_several_labels(self) -> bool:
        return any(len(record["labels"]) > 1 for record in self.finished)

    def by_class(self) -> list[tuple[str, int, int]]:
        """(label, images that have it, how many of those are right) for every prompt."""
        having = Counter(label for record in self.finished for label in record["labels"])
        right = Counter(
            label for record in self.finished if record["right"] for label in record["labels"]
        )
        return [(label, having[label], right[label]) for label in self.job.labels]

    def __str__(self) -> str:
        lines = []
        labelled = self.job.images.is_labelled
        if finished := self.finished:
            lines += [
                self._accuracy_line() if labelled else self._tags_line(),
                f"{self.calls:.1f} network evaluations per image",
            ]
        if self.has_several_labels:
            means = (f"{self.mean_average_precision(kind):.4f} ({kind})" for kind in RANKINGS)
            lines.append(f"mAP {', '.join(means)}")
        total = len(self.job.all_images)
        missing = total - len(finished) - len(self.unreadable)
        if missing:
            lines.append(f"{missing} of {total} images have no result yet")
        if self.unreadable:
            files = [record["file"] for record in self.unreadable]
            lines.append(f"{len(files)} unreadable, skipped: {abbreviate(files)}")
        if self.removed:
            lines.append(f"{len(self.removed)} removed, not counted: {abbreviate(self.removed)}")
        if self.job.left_out:
            unknown = abbreviate(self.job.unknown_labels)
            lines.append(
                f"{len(self.job.left_out)} left out, no prompt for their labels: {unknown}"
            )
        seen = {label for image in self.job.all_images for label in image.labels}
        idle = sorted({*self.job.images.empty, *(set(self.job.labels) - seen)})
        if labelled and idle:
            lines.append(f"{len(idle)} labels without images: {abbreviate(idle)}")
        return "\n".join(lines)

    def _accuracy_line(self) -> str:
        low, high = wilson_interval(self.right, len(self.finished))
        return (
            f"accuracy {self.accuracy:.4f} ({self.right} of {len(self.finished)}; 95 % interval "
            f"{low:.4f} to {high:.4f})"
        )

    def _tags_line(self) -> str:
        tags = Counter(record["best"] for record in self.finished).most_common()
        counted = abbreviate([f"{tag} ({count})" for tag, count in tags])
        return f"{len(self.finished)} tagged: {counted}"

    def table(self) -> str:
        """CSV with a row per class, or per image if they have no labels."""
        return self.class_table() if self.job.images.is_labelled else self.image_table()

    def class_table(self) -> str:
        """CSV with a row per class."""
        rows = []
        for label, count, right in self.by_class():
            if not count:
                rows.append([label, 0, 0, "", "", ""])
                continue
            low, high = wilson_interval(right, count)
            shares = (f"{share:.4f}" for share in (right / count, low, high))
            rows.append([label, count, right, *shares])
        return csv_table(("label", "images", "right", "accuracy", "low", "high"), rows)

    def image_table(self) -> str:
        """CSV with a row per classified image, and columns about their labels if they have any."""
        columns, kinds = COLUMNS, RANKINGS
        if not self.job.images.is_labelled:
            columns, kinds = [*(name for name in COLUMNS if name not in ABOUT_LABELS), "fits"], ()
        places = {image.file: image.number for image in self.job.all_images}
        rows = (
            [
                places[r["file"]],
                *(_cell(r, column) for column in columns[1:]),
                *(_cell(r["precision"], kind) for kind in kinds),
            ]
            for r in self.finished
        )
        return csv_table((*columns, *(f"precision_{kind}" for kind in kinds)), rows)


def _cell(record: Mapping, column: str):
    """Fractions with as many digits as mean anything; the result files have all of them."""
    value = record.get(column)
    if column == "labels":
        return "; ".join(value)
    return f"{value:.4g}" if isinstance(value, float) else value


def comparison(ours: Mapping[str, dict], theirs: Mapping[str, dict]) -> str:
    """McNemar's test on the images that both classified, in words; records by file.

    Raises ValueError if the records have no image in common.
    """
    shared = [file for file, record in ours.items() if _is_same(record, theirs.get(file, {}))]
    if not shared:
        raise ValueError(
            "BiGain: expected results with images in common for a comparison, got none with the "
            "same file and labels. Evaluate both on one folder with the same labels."
        )
    if ours[shared[0]]["right"] is None:
        raise ValueError(
            "BiGain: expected labelled images for a comparison, got some without labels. Put each "
            "into a folder that is named after its class."
        )
    first, second = ([records[file]["right"] for file in shared] for records in (ours, theirs))
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    return (
        f"on {len(shared)} images that both classified: {sum(first)} right against {sum(second)}; "
        f"only these {only_first}, only the others {only_second}; McNemar p = "
        f"{mcnemar(first, second):.4g}"
    )


def _is_same(one: Mapping, other: Mapping) -> bool:
    """Whether both records are classifications of the same file with the same labels."""
    both = is_classified(one) and is_classified(other)
    return both and all(one[key] == other[key] for key in ("content", "labels"))

"""How often a classifier is right on a labelled set, and what it says of one without labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ...text import abbreviate, csv_table
from ..elimination.trial_plan import TrialPlan
from ..results.ranking import RANKINGS, Ranking
from .image_folder import LabelledImage, LabelledSet, known_labels
from .metrics import average_precision, mcnemar, wilson_interval
from .result_files import Results


@dataclass(frozen=True)
class Job:
    """The images of a set that are to be classified among `labels`, which are all different.

    Shard i of n takes every n-th image from the i-th on (from 0). Images that have labels, none of
    which is among the prompts, are left out.
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
        own = self.images.chosen(self.limit)[self.shard :: self.shards]
        return tuple(image for image in own if self._counts(image))

    def _counts(self, image: LabelledImage) -> bool:
        return not image.labels or bool(known_labels(image, self._prompts))

    def pending(self, records: dict[int, dict]) -> list[LabelledImage]:
        """Those of this shard that are not classified; unreadable ones get another chance."""
        return [image for image in self.shard_images if "best" not in records.get(image.number, {})]

    @cached_property
    def left_out(self) -> tuple[LabelledImage, ...]:
        return tuple(image for image in self.images.chosen(self.limit) if not self._counts(image))

    @cached_property
    def unknown_labels(self) -> tuple[str, ...]:
        found = {label for image in self.images.chosen(self.limit) for label in image.labels}
        return tuple(sorted(found - set(self.labels)))

    def settings(self, prompts: Sequence[str], plan: TrialPlan, size: int, **others) -> dict:
        """What results must have in common; `size` is the side of the square that is seen."""
        return {
            "images": self.images.digest,
            "prompts": list(prompts),
            "plan": repr(plan),
            "size": size,
            **others,
        }


def unreadable_record(image: LabelledImage, error: Exception) -> dict:
    return {"image": image.number, "file": image.file, "unreadable": str(error)}


def record(image: LabelledImage, ranking: Ranking, classes: Sequence[str]) -> dict:
    """What is kept of the ranking of one image; `classes` are what its prompts stand for.

    Where several prompts stand for one class, the best of them is its place in the ranking. Without
    labels nothing is right or wrong, and there is no precision.
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
        "image": image.number,
        "file": image.file,
        "labels": list(known),
        "best": best,
        "right": best in known if known else None,
        "margin": ranking.margin,
        "confidence": ranking.confidence,
        "calls": ranking.calls,
        "precision": {
            kind: average_precision(order, wanted) for kind, order in ranked.items() if wanted
        },
        "ranked": ranked["paired"],
    }


COLUMNS = ("image", "file", "labels", "best", "right", "margin", "confidence", "calls")
ABOUT_LABELS = ("labels", "right")


@dataclass(frozen=True)
class Summary:
    """What the records of a job add up to, those of all its shards that are there."""

    job: Job
    records: dict[int, dict]

    @cached_property
    def unreadable(self) -> list[dict]:
        found = (self.records.get(image.number, {}) for image in self.job.all_images)
        return [record for record in found if "unreadable" in record]

    @cached_property
    def finished(self) -> list[dict]:
        """Records of classified images in the order of the set."""
        found = (self.records.get(image.number, {}) for image in self.job.all_images)
        return [record for record in found if "best" in record]

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
            columns, kinds = [name for name in COLUMNS if name not in ABOUT_LABELS], ()
        rows = (
            [
                *("; ".join(r[c]) if c == "labels" else r[c] for c in columns),
                *(r["precision"][kind] for kind in kinds),
            ]
            for r in self.finished
        )
        return csv_table((*columns, *(f"precision_{kind}" for kind in kinds)), rows)


def comparison(ours: Results, theirs: Results) -> str:
    """McNemar's test on the images that both classified, in words.

    Raises ValueError if the results are of different sets or have no image in common.
    """
    if ours.settings["images"] != theirs.settings["images"]:
        raise ValueError(
            "BiGain: expected results of the same labelled images for a comparison, got those of "
            "another set. Evaluate both on one folder with the same labels."
        )
    shared = sorted(
        number
        for number in ours.records.keys() & theirs.records.keys()
        if "best" in ours.records[number] and "best" in theirs.records[number]
    )
    if not shared:
        raise ValueError("BiGain: expected results with images in common, got none.")
    if ours.records[shared[0]]["right"] is None:
        raise ValueError(
            "BiGain: expected labelled images for a comparison, got some without labels. Put each "
            "into a folder that is named after its class."
        )
    first, second = ([r.records[n]["right"] for n in shared] for r in (ours, theirs))
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    return (
        f"on {len(shared)} images that both classified: {sum(first)} right against {sum(second)}; "
        f"only these {only_first}, only the others {only_second}; McNemar p = "
        f"{mcnemar(first, second):.4g}"
    )

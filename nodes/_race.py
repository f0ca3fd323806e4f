"""What the panel of the classifier in the browser is told, while it runs and at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import inf, isfinite

from comfy.utils import ProgressBar

from ..bigain_core.classification import Classification, Ranking, Snapshot
from ._host import Messenger

EVENT = "bigain.race"
SECONDS_BETWEEN = 0.25
MOST_ROWS = 12
MOST_IMAGES = 16


class Race:
    """Counts evaluations and tells how the prompts stand, a few times a second at most.

    `most` evaluations are the most there can be, `most_each` those of one image where images are
    finished one after another.
    """

    def __init__(self, labels: Sequence[str], images: int, most: int, most_each: int | None):
        self.labels, self.images, self.most, self.most_each = labels, images, most, most_each
        self.bar, self.messenger = ProgressBar(most), Messenger(EVENT)
        self.used, self.told = 0, -inf
        self.started, self.used_then = 0.0, 0

    def count(self, evaluations: int) -> None:
        self.bar.update(evaluations)
        self.used += evaluations
        if not self.started:  # the first ones include loading the model
            self.started, self.used_then = time.monotonic(), self.used

    def tell(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if now - self.told < SECONDS_BETWEEN:
            return
        self.told = now
        left = set(snapshot.alive)
        dropped = [prompt not in left for prompt in range(len(self.labels))]
        self.messenger.send(
            {
                **_rows(self.labels, snapshot.order, snapshot.behind, dropped),
                "image": snapshot.image,
                "images": self.images,
                "used": self.used,
                "left": self._most_left(snapshot),
                "timed": self.used - self.used_then,
                "seconds": now - self.started,
            }
        )

    def _most_left(self, snapshot: Snapshot) -> int:
        most = self.most - self.used
        if self.most_each is None:
            return most
        return min(most, snapshot.most_left + (self.images - 1 - snapshot.image) * self.most_each)


def settled(result: Classification, every: Classification) -> list[dict]:
    """The end of the race for each image; evaluations are those of `every` prompt."""
    pairs = list(zip(result.rankings, every.rankings, strict=True))[:MOST_IMAGES]
    return [
        {
            **_settled_rows(result.labels, ranking),
            "image": number,
            "images": len(result.rankings),
            "used": spent.spent,
            "saved": max(spent.saved, 0),
        }
        for number, (ranking, spent) in enumerate(pairs)
    ]


def _settled_rows(labels: Sequence[str], ranking: Ranking) -> dict:
    order, trials = ranking.order, ranking.trials.tolist()
    behind = {prompt: ranking.lead(order[0], prompt).margin for prompt in order[:MOST_ROWS]}
    return _rows(labels, order, behind, [count < max(trials) for count in trials])


def _rows(
    labels: Sequence[str],
    order: Sequence[int],
    behind: Sequence[float] | Mapping[int, float],
    dropped: Sequence[bool],
) -> dict:
    """The best of all prompts, and how many there are."""
    rows = [
        {
            "label": labels[prompt],
            "behind": behind[prompt] if isfinite(behind[prompt]) else None,
            "dropped": dropped[prompt],
        }
        for prompt in order[:MOST_ROWS]
    ]
    return {"rows": rows, "prompts": len(labels), "alive": dropped.count(False)}

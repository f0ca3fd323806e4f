"""What the panel of the classifier in the browser is told, while it runs and at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import inf, isfinite

from ..bigain_core.classification import Classification, Snapshot
from ._host import CallBar, send

EVENT = "bigain.race"
SECONDS_BETWEEN = 0.25
MAX_ROWS = 12
MAX_IMAGES = 16


class Race(CallBar):
    """Counts evaluations and tells how the prompts stand, a few times a second at most.

    `max_calls` is how many there can be at most, `max_calls_each` for one image where images are
    finished one after another.
    """

    def __init__(
        self, labels: Sequence[str], images: int, max_calls: int, max_calls_each: int | None
    ):
        super().__init__(max_calls)
        self.labels, self.images = labels, images
        self.max_calls, self.max_calls_each = max_calls, max_calls_each
        self.used, self.told = 0, -inf
        self.started, self.used_then = 0.0, 0

    def on_calls(self, calls: int) -> None:
        super().on_calls(calls)
        self.used += calls
        if not self.started:  # the first ones include loading the model
            self.started, self.used_then = time.monotonic(), self.used

    def on_trial(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if now - self.told < SECONDS_BETWEEN:
            return
        self.told = now
        left = set(snapshot.alive)
        dropped = [prompt not in left for prompt in range(len(self.labels))]
        send(
            EVENT,
            {
                **_rows(self.labels, snapshot.order, snapshot.behind, dropped),
                "image": snapshot.image,
                "images": self.images,
                "used": self.used,
                "left": self._max_calls_left(snapshot),
                "timed": self.used - self.used_then,
                "seconds": now - self.started,
            },
        )

    def _max_calls_left(self, snapshot: Snapshot) -> int:
        left = self.max_calls - self.used
        if self.max_calls_each is None:
            return left
        return min(
            left, snapshot.max_calls_left + (self.images - 1 - snapshot.image) * self.max_calls_each
        )


def settled(result: Classification, every: Classification) -> list[dict]:
    """The end of the race for each image; evaluations are those of `every` prompt.

    A row has the chance that its prompt is the best: for the winner its confidence. `fits` is the
    probability that the best fits at all, `none` says that perhaps it does not, `alone` that there
    was but one.
    """
    races = []
    pairs = list(zip(result.rankings, every.rankings, strict=True))[:MAX_IMAGES]
    for number, (ranking, spent) in enumerate(pairs):
        order, trials = ranking.order, ranking.table.trials.tolist()
        shown = order[:MAX_ROWS]
        leads = dict(zip(shown, ranking.leads(order[0], shown), strict=True))
        behind = {prompt: lead.margin for prompt, lead in leads.items()}
        rows = _rows(result.labels, order, behind, [count < max(trials) for count in trials])
        for row, prompt in zip(rows["rows"], shown, strict=True):
            chance = leads[prompt].worse if prompt != order[0] else ranking.confidence
            row["chance"] = chance if isfinite(chance) else None
        rows["rows"][1:] = sorted(rows["rows"][1:], key=_place)
        counts = {"images": len(result.rankings), "used": spent.spent, "saved": max(spent.saved, 0)}
        found = {"alone": len(result.labels) == 1, "none": ranking.fits_none}
        found["fits"] = ranking.fits if isfinite(ranking.fits) else None
        races.append({**rows, "image": number, **counts, **found})
    return races


def _place(row: dict) -> tuple:
    return row["dropped"], row["behind"] is None, row["behind"]


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
        for prompt in order[:MAX_ROWS]
    ]
    return {"rows": rows, "prompts": len(labels), "alive": dropped.count(False)}

"""The tables in Markdown, from the results on the disk alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.demo_report import Row as Cells
from benchmarks.demo_report import table as markdown
from benchmarks.paper.cost import Cost, read_costs
from benchmarks.paper.data import Data, factors
from benchmarks.paper.generation import (
    Judged,
    generated,
    inception_distance,
    judge_row,
    small_distance,
)
from benchmarks.paper.recognition import found_results
from benchmarks.paper.tables import OFF, ROWS, Table
from bigain_core.classification import mcnemar, wilson_interval
from bigain_core.classification.datasets.evaluation import Job, Summary

Hits = Mapping[str | int, bool]  # by the file or the number of the image


@dataclass(frozen=True)
class Finished:
    """All that is known about one model: where its results lie, and what they are of."""

    name: str
    folder: Path
    data: Data
    job: Job
    is_unet: bool
    inception: Path | None = None

    @property
    def is_small(self) -> bool:
        return self.data.contests is not None

    @property
    def recognition(self) -> Path:
        return self.folder / "recognition"

    @property
    def generation(self) -> Path:
        return self.folder / "generation"

    @property
    def protocol(self) -> str:
        """One line for each kind of image: images, names, trials, timesteps."""
        kinds = {}
        for contest, images in self.data.by_contest(self.job.all_images).items():
            kind = len(contest.labels), contest.plan
            kinds[kind] = kinds.get(kind, 0) + len(images)
        return "; ".join(
            f"{count} images, each ranked among {among} names, {list(plan.trials)} trials, "
            f"{list(plan.kept(among))} kept, at timesteps {plan.timesteps}"
            for (among, plan), count in kinds.items()
        )

    @cached_property
    def costs(self) -> dict[str, Cost]:
        return read_costs(self.folder)

    def summary(self, row: str) -> Summary | None:
        """None where nothing was recognised yet."""
        found = found_results(self.recognition, row)
        summary = Summary(self.job, found.records) if found else None
        return summary if summary and summary.finished else None

    def judged(self, row: str) -> Judged | None:
        return judge_row(self.generation, row)


# Numbers


def share(hits: Hits) -> str:
    """0.873 (0.840 to 0.900), the interval Wilson's; a dash where there is nothing."""
    if not hits:
        return "-"
    low, high = wilson_interval(sum(hits.values()), len(hits))
    return f"{sum(hits.values()) / len(hits):.3f} ({low:.3f} to {high:.3f})"


def against(hits: Hits, others: Hits | None) -> str:
    """Wins and losses on the images that both have, and McNemar's p; a dash without any."""
    shared = sorted(hits.keys() & (others or {}).keys())
    if not shared:
        return "-"
    ours, theirs = [hits[n] for n in shared], [others[n] for n in shared]
    wins = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    losses = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    return f"{wins}:{losses}, p = {mcnemar(ours, theirs):.2g}"


def right(summary: Summary) -> Hits:
    return {record["file"]: record["right"] for record in summary.finished}


def of_shapes(summary: Summary, factor: int) -> Hits:
    """Whether the shape (0) or the texture (1) is right, of images that have a texture."""
    return {
        record["file"]: factors(record["best"])[factor] == factors(record["labels"][0])[factor]
        for record in summary.finished
        if factors(record["labels"][0])[1]
    }


def of_digits(summary: Summary) -> Hits:
    return {
        record["file"]: record["right"]
        for record in summary.finished
        if not factors(record["labels"][0])[1]
    }


def shape(summary: Summary) -> Hits:
    return of_shapes(summary, 0)


def texture(summary: Summary) -> Hits:
    return of_shapes(summary, 1)


MEASURES: dict[str, Callable[[Summary], Hits]] = {
    "accuracy": right, "shape": shape, "texture": texture, "digits": of_digits,
}  # fmt: skip


def gflop(costs: Mapping[str, Cost], row: str) -> str:
    return f"{costs[row].flops / 1e9:.4g}" if row in costs and costs[row].flops else "-"


# Tables


def measured(table: Table, found: Finished) -> str:
    """What is there of one table with one model."""
    parts = [
        part
        for rows, of_rows in (
            (table.recognition, recognition_table),
            (table.generation, generation_table),
            (table.cost, cost_table),
        )
        if (part := of_rows(rows, found) if rows else "")
    ]
    return "\n\n".join(parts) or "Nothing was measured yet."


def fitting(rows: Sequence[str], found: Finished) -> Iterator[str]:
    return (row for row in rows if found.is_unet or not ROWS[row].unets_only)


def recognition_table(rows: Mapping[str, str], found: Finished) -> str:
    summaries = {row: found.summary(row) for row in fitting(rows, found)}
    done = {row: summary for row, summary in summaries.items() if summary}
    if not done:
        return ""
    of_row = _small_cells if found.is_small else _published_cells
    compared = ["of shapes", "of textures"] if found.is_small else []
    own = ["accuracy", *(["shape", "texture", "digits"] if found.is_small else ["mAP", "calls"])]
    head = ["row", "GFLOP", *own, "against", "wins:losses", *compared]
    lines = [
        [row, gflop(found.costs, row), *of_row(summary, rows[row], done.get(rows[row]))]
        for row, summary in done.items()
    ]
    return f"{markdown(head, lines)}{_missing(found, summaries)}"


def _small_cells(summary: Summary, rival: str, other: Summary | None) -> Cells:
    shares = [share(measure(summary)) for measure in MEASURES.values()]
    compared = [
        against(measure(summary), measure(other) if other else None)
        for measure in (right, shape, texture)
    ]
    return [*shares, rival or "-", *compared]


def _published_cells(summary: Summary, rival: str, other: Summary | None) -> Cells:
    precision = "-"
    if summary.has_several_labels:
        precision = f"{summary.mean_average_precision('paired'):.4f}"
    versus = against(right(summary), right(other) if other else None)
    calls = f"{summary.calls:.1f}"
    return [share(right(summary)), precision, calls, rival or "-", versus]


def _missing(found: Finished, summaries: Mapping[str, Summary | None]) -> str:
    """A sentence about rows that are not whole."""
    total = len(found.job.all_images)
    left = {row: total - len(s.finished) if s else total for row, s in summaries.items()}
    parts = [f"{row} ({count} of {total})" for row, count in left.items() if count]
    return f"\n\nImages without a result: {', '.join(parts)}." if parts else ""


def generation_table(rows: Mapping[str, str], found: Finished) -> str:
    return (_small_generation if found.is_small else _published_generation)(rows, found)


def _small_generation(rows: Mapping[str, str], found: Finished) -> str:
    judged = {row: found.judged(row) for row in fitting(rows, found)}
    judged = {row: one for row, one in judged.items() if one}
    head = ["row", "GFLOP", "images", "distance", "against", "difference", "agreement"]
    lines = []
    for row, one in judged.items():
        other = judged.get(rows[row])
        paired = other if other and other.agrees.keys() == one.agrees.keys() else None
        apart = small_distance(one, paired)
        difference = f"{apart.difference:+.3f} +- {apart.difference_reach:.3f}" if paired else "-"
        value = f"{apart.value:.3f} +- {apart.adapter:.3f}"
        versus = against(one.agrees, other.agrees if other else None)
        count, agreement = str(len(one.agrees)), share(one.agrees)
        cells = [count, value, rows[row] or "-", difference, agreement, versus]
        lines.append([row, gflop(found.costs, row), *cells])
    return markdown([*head, "wins:losses"], lines) if lines else ""


def _published_generation(rows: Mapping[str, str], found: Finished) -> str:
    if found.inception is None:
        return "FID needs the weights of its network: --inception FILE."
    lines = []
    for row in fitting(rows, found):
        if count := len(generated(found.generation, row)):
            apart = inception_distance(found.data, found.generation, row, found.inception)
            lines.append([row, gflop(found.costs, row), str(count), f"{apart:.2f}"])
    return markdown(["row", "GFLOP", "images", "FID"], lines) if lines else ""


def cost_table(rows: Sequence[str], found: Finished) -> str:
    costs = {row: found.costs[row] for row in rows if row in found.costs}
    if OFF not in costs:
        return ""
    plain = costs[OFF].flops
    lines = []
    for row, cost in costs.items():
        low, median, high = (1000 * seconds for seconds in cost.seconds)
        slow, gain, fast = cost.gain
        lines.append([
            row, gflop(costs, row), f"{1 - cost.flops / plain:.1%}", f"{plain / cost.flops:.2f}x",
            f"{median:.4g} ({low:.4g} to {high:.4g})", f"{gain:.2f}x ({slow:.2f} to {fast:.2f})",
        ])  # fmt: skip
    return markdown(["row", "GFLOP", "saved", "ceiling", "ms", "times as fast"], lines)


NOTES = """\
Every row sees the same images, trials and noise. Shares have Wilson's interval of 95 %.
"wins:losses" are images that only this row, or only the row it is held against, gets right; p is
McNemar's, exact, and not corrected for the number of comparisons."""
SMALL_NOTES = """\
An image of a shape is ranked among the ten names that have its shape or its texture: a wrong
choice is wrong in one of them. "distance" is Frechet's between features of generated and of
held-out images, "agreement" how often the same small network sees what was asked for; "+-" is half
of the bootstrap's interval of 95 %, paired where it is that of a difference."""


def whole(tables: Mapping[str, Table], every: Sequence[Finished]) -> str:
    parts = ["# Tables of the supplement", NOTES]
    if any(found.is_small for found in every):
        parts.append(SMALL_NOTES)
    parts += [f"- {found.name}: {found.protocol}" for found in every]
    for one in tables.values():
        parts.append(f"## {one.title}")
        for found in every:
            parts.append(f"### {found.name}\n\n{measured(one, found)}")
    return "\n\n".join(parts) + "\n"

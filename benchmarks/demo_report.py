"""What the demo leaves behind: tables, images, chart and a summary."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.demo_backend import Backend, CallFlops
from benchmarks.demo_drawing import Bar, Card, ranking_chart, sample_grid
from benchmarks.demo_page import page
from benchmarks.demo_run import Job, Outcome, Question
from benchmarks.demo_whole import NAME, PIXELS, SETTING
from benchmarks.methods import OFF
from bigain_core.classification import Ranking
from bigain_core.classification.results.result_table import COLUMNS, result_table
from bigain_core.measure.benchmark import Benchmark
from bigain_core.measure.similarity import psnr, ssim
from bigain_core.text import cell_text, csv_table

BARS = 5

Outcomes = Mapping[str, Outcome]
Row = Sequence[str]


def table(head: Row, rows: Sequence[Row]) -> str:
    """Markdown with aligned columns, the first to the left and the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in [head, *rows]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


# Times and operations


def headline(outcomes: Outcomes) -> str:
    """What a reader wants to know first."""
    plain, found = outcomes[OFF], outcomes[SETTING]
    before, after = (median(outcome.sample_seconds) for outcome in (plain, found))
    ranking = plain.answer_seconds / found.answer_seconds
    return (
        f"**{SETTING} generated these images {before / after:.2f}x as fast** ({after:.1f} s, plain "
        f"{before:.1f} s) and ranked prompts {ranking:.2f}x as fast."
    )


def times_table(outcomes: Outcomes) -> str:
    """Measured speed-up of sampling and ranking beside the ceiling."""
    plain = outcomes[OFF]
    rows = []
    for setting, outcome in outcomes.items():
        sampling, plain_sampling = median(outcome.sample_seconds), median(plain.sample_seconds)
        ranking = outcome.answer_seconds
        rows.append(
            [
                setting,
                f"{sampling:.2f} s",
                f"{plain_sampling / sampling:.2f}x",
                f"{ranking:.2f} s",
                f"{plain.answer_seconds / ranking:.2f}x",
                f"{outcome.flops.ceiling:.2f}x",
            ]
        )
    return table(["setting", "sampling", "speed-up", "ranking", "speed-up", "ceiling"], rows)


def flops_row(setting: str, flops: CallFlops) -> Row:
    row = [setting, f"{flops.compressed / 1e9:.4g}"]
    if not flops.layers_before:
        return [*row, *["-"] * 5]
    saved = flops.layers_before - flops.layers_after
    return [
        *row,
        f"{saved / flops.network:.0%}",
        f"{flops.ceiling:.2f}x",
        f"{flops.layers_before / 1e9:.4g} -> {flops.layers_after / 1e9:.4g}",
        f"{saved / flops.layers_before:.0%}",
        f"{flops.layers_ceiling:.2f}x",
    ]


def flops_table(outcomes: Outcomes) -> str:
    """GFLOP of a network call, and of its compressed layers alone."""
    head = ["setting", "network", "saved", "ceiling", "compressed layers", "saved", "ceiling"]
    return table(head, [flops_row(setting, outcome.flops) for setting, outcome in outcomes.items()])


# Ranking


def ranking_csv(job: Job, outcomes: Outcomes) -> str:
    """Every prompt of every image under every setting, best first."""
    rows = (
        [setting, job.question.names[int(image)], *map(cell_text, cells)]
        for setting, outcome in outcomes.items()
        for image, *cells in list(csv.reader(io.StringIO(result_table(outcome.answer))))[1:]
    )
    return csv_table(("setting", *COLUMNS), rows)


def verdict(question: Question, name: str, ranking: Ranking) -> str:
    """The best prompt and by how much its error is below the runner-up's."""
    lead = ranking.margin / ranking.table.mean_errors[ranking.best].item()
    wrong = name in question.prompts and question.prompts[ranking.best] != name
    return f"{question.prompts[ranking.best]} (by {lead:.2%}{', wrong' if wrong else ''})"


def ranking_table(job: Job, outcomes: Outcomes) -> str:
    asked = job.question
    columns = [
        list(map(partial(verdict, asked), asked.names, outcome.answer.rankings))
        for outcome in outcomes.values()
    ]
    return table(["image", *outcomes], list(zip(asked.names, *columns, strict=True)))


def bars(question: Question, name: str, ranking: Ranking) -> list[Bar]:
    """The leading prompts, as far as they had the same trials as the best."""
    trials = torch.isfinite(ranking.table.errors).sum(1).tolist()
    means = ranking.table.mean_errors.tolist()
    best = ranking.best
    return [
        Bar(question.prompts[k], means[k] / means[best] - 1, question.prompts[k] == name)
        for k in ranking.order[:BARS]
        if trials[k] == trials[best]
    ]


def cards(job: Job, outcomes: Outcomes) -> list[Card]:
    asked = job.question
    panels = {
        setting: list(map(partial(bars, asked), asked.names, outcome.answer.rankings))
        for setting, outcome in outcomes.items()
    }
    return [
        Card(asked.images[number], name, {setting: panels[setting][number] for setting in panels})
        for number, name in enumerate(asked.names)
    ]


# Files


def apart_table(outcomes: Outcomes) -> str:
    """How far the generated images are from the plain ones: medians."""
    plain = outcomes[OFF].samples
    rows = []
    for name, outcome in outcomes.items():
        if name != OFF:
            alike, decibels = (of(outcome.samples, plain).median().item() for of in (ssim, psnr))
            rows.append([name, f"{alike:.3f}", f"{decibels:.1f}"])
    return table(["setting", "SSIM", "PSNR (dB)"], rows)


def whole_section(found: Benchmark | None) -> str:
    """A network call at a size that people use, off and on."""
    if found is None:
        return "Not measured: the network's class comes with ComfyUI, and none was found."
    taken = {name: measured.times.spread.median for name, measured in found.measured.items()}
    rows = [
        [name, f"{seconds:.2f} s", f"{found.gain(name).median:.2f}x"]
        for name, seconds in taken.items()
    ]
    (ceiling,) = (found.ceiling(name) for name in taken if name != OFF)
    return f"""{table(["setting", "one call", "speed-up"], rows)}

{NAME}'s network with random weights at {PIXELS} x {PIXELS} px, one image, on {found.device}; by its
operations alone the speed-up would be {ceiling:.2f}x."""


def summary(
    backend: Backend, job: Job, outcomes: Outcomes, whole: Benchmark | None, command: str
) -> str:
    several = f"median of {job.rounds} rounds in which the settings took turns"
    timed = several if job.rounds > 1 else "timed once"
    trials = job.plan.trials
    flops = max((o.flops for o in outcomes.values()), key=lambda flops: flops.layers_before)
    share = flops.layers_before / flops.network
    return f"""# BiGain demo

{headline(outcomes)}

![images](images.png)

The same prompts, {job.steps} steps and starting noise (seed {job.seed}), plain (`{OFF}`) and with
{SETTING}. How similar they are to the plain ones, by medians (SSIM: 1 is equal):

{apart_table(outcomes)}

## Speed at a size that people use

{whole_section(whole)}

## Times of the small model above

{times_table(outcomes)}

Sampling: {len(job.generated)} images, {timed}. Ranking:
{job.calls} network evaluations, timed once. Speed-up: time of `{OFF}` divided by
the setting's; below 1 the setting is slower. Ceiling: the speed-up if time went with the
floating point operations of the network alone.

## Floating point operations (GFLOP of one network call, one image)

{flops_table(outcomes)}

With {flops.tokens} tokens per image, the self-attention layers that are compressed (projections
included) are {share:.0%} of a plain call. No saving in them reaches the rest: that sets the
ceiling, and it rises with the number of tokens. Choosing and moving tokens takes time that no such
count shows, so with few tokens the measured speed-up can stay below the ceiling, even below 1.

## Ranking

{ranking_table(job, outcomes)}

In brackets: how far the error of the next prompt lies above the best one's. All prompts had
{trials[0]} trials, the leading ones {trials[-1]}; all settings saw the same noise. Every prompt is
in [ranking.csv](ranking.csv).

![ranking](ranking.png)

## How this was made

| | |
| --- | --- |
| command | `{command}` |
| runner | {backend.runner} |
| model | {backend.model} |
| device | {backend.device} |
| versions | torch {torch.__version__}, Python {platform.python_version()} |
"""


def write(folder: Path, text: str, job: Job, outcomes: Outcomes) -> list[Path]:
    """Write the demo's files into `folder`, `text` being the summary; the page is the last path."""
    folder.mkdir(parents=True, exist_ok=True)
    names = "images.png", "ranking.png", "ranking.csv", "summary.md", "demo.html"
    paths = [folder / name for name in names]
    samples = {setting: outcome.samples for setting, outcome in outcomes.items()}
    sample_grid(samples, job.generated).save(paths[0])
    subtitle = (
        "Error of the model's prediction, above that of the best prompt. "
        "Green: the prompt in the file's name."
    )
    ranking_chart(cards(job, outcomes), subtitle).save(paths[1])
    paths[2].write_text(ranking_csv(job, outcomes), encoding="utf-8")
    paths[3].write_text(text, encoding="utf-8")
    paths[4].write_text(page(text, folder), encoding="utf-8")
    return paths

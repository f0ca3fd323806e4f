"""Classifier plans on the bundled model: one line of results per image, and tables of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.accuracy import held_out
from benchmarks.data import CLASS_NAMES, TEXTURES
from benchmarks.demo_backend import CallFlops
from benchmarks.dit_runner import SMALL_DIT, DiTRunner, load_dit
from benchmarks.frequency_bands import band_differences
from benchmarks.methods import BUNDLED_PLACEMENT, OFF, methods
from benchmarks.outlines.dit_outline import dit_outline
from benchmarks.theorem_1 import noise_change
from bigain_core.classification import (
    PLANS,
    Denoiser,
    ErrorSource,
    Ranking,
    Screening,
    SpreadGrid,
    Trial,
    TrialPlan,
    TrialSpec,
    TrialTable,
    classify,
    mcnemar,
    wilson_interval,
)
from bigain_core.compression.rules import Compression, Rule
from bigain_core.methods import TokenMerging
from bigain_core.models.checkpoint import read_checkpoint

PAPER = "paper [5, 20]"
PLAIN_PLANS = (PAPER, "sequential", "balanced", "fast")
TWO_STAGE = "two-stage"
SCREENING_TRIALS, KEPT = 5, 10
SCREENED_BY = Compression((Rule(TokenMerging(0.7)),))  # L-GTM in every block
METHODS = (*PLAIN_PLANS, TWO_STAGE)
EFFECT_IMAGES = 30
BANDS = 4
CONFIDENCES = (0.0, 0.5, 0.8, 0.95, 1.01)  # edges of the rows of the calibration table

Markdown = Callable[[Sequence[str], object], None]


class Remembering:
    """A denoiser that runs the network once for each trial and prompt of an image.

    Plans share most of their trials, so comparing them costs little more than the longest. Seconds
    inside the network and its rows are counted.
    """

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.known: dict[tuple[int, float, int], Tensor] = {}
        self.seconds, self.rows = 0.0, 0

    def __call__(self, latent: Tensor, trial: Trial, prompts: Sequence[int]) -> Tensor:
        start = perf_counter()
        key = trial.level.timestep, trial.noise.flatten()[0].item()
        missing = [k for k in prompts if (*key, k) not in self.known]
        if missing:
            found = self.denoiser(latent, trial, missing)
            self.known |= {(*key, k): row for k, row in zip(missing, found, strict=True)}
            self.rows += len(missing)
        clean = torch.stack([self.known[(*key, k)] for k in prompts])
        self.seconds += perf_counter() - start
        return clean


def flop_share(dit, compression: Compression) -> float:
    """Operations of a compressed network call over those of a plain one."""
    size = dit.config.input_size
    runner = DiTRunner(dit, compression)
    runner.predict_noise(torch.zeros(1, dit.config.in_channels, size, size), 500, torch.tensor([0]))
    flops = CallFlops.from_log(dit_outline(dit.config, size, size).flops, runner.log)
    return flops.compressed / flops.network


def classify_image(dit, share: float, classes: range, pixels: Tensor, image: int) -> dict:
    """What every method says about one image (1, 3, 32, 32)."""
    plain = Remembering(DiTRunner(dit).denoiser(classes))
    cheap = Remembering(DiTRunner(dit, SCREENED_BY).denoiser(classes))
    names = [CLASS_NAMES[k] for k in classes]
    found = {}
    for method in METHODS:
        plan = PLANS["balanced" if method == TWO_STAGE else method]
        if method == TWO_STAGE and KEPT >= len(names):
            continue
        inside, start, screening = plain.seconds + cheap.seconds, perf_counter(), None
        if method == TWO_STAGE:
            quick = classify(cheap, pixels, names, plan.screening(SCREENING_TRIALS), image)
            screening = Screening(quick, KEPT, share)
        result = classify(plain, pixels, names, plan, image, screening=screening)
        outside = perf_counter() - start - (plain.seconds + cheap.seconds - inside)
        ranking = result.rankings[0]
        lead = ranking.best_lead
        found[method] = {
            "best": classes[ranking.best],
            "spent": ranking.spent,
            "sure": lead.margin >= 2 * lead.standard_error,
            "outside": outside,
            "timesteps": [spec.timestep for spec in ranking.table.specs],
            "errors": [_rounded(row) for row in ranking.table.errors.tolist()],
        }
    seconds = plain.seconds / max(plain.rows, 1)
    return {"rows": plain.rows, "cheap_rows": cheap.rows, "row_seconds": seconds, "found": found}


def _rounded(errors: list[float]) -> list[float]:
    """Of the trials that a prompt had, so that a result can be judged anew."""
    return [float(f"{error:.7g}") for error in errors if error == error]


def read_lines(path: Path) -> list[dict]:
    """Whole lines of a file; what a killed run left of its last line is cut off."""
    if not path.exists():
        return []
    text = path.read_text("utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, "utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def run_bundled(folder: Path, counts: dict[str, int], markdown: Markdown) -> None:
    dit = load_dit(read_checkpoint(SMALL_DIT))
    share = flop_share(dit, SCREENED_BY)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, count in counts.items():
        path = folder / f"{kind}_{count}.jsonl"
        done = {row["image"] for row in read_lines(path)}
        images, classes = held_out(kind, count)
        for image in tqdm([n for n in range(count) if n not in done], desc=kind, mininterval=60):
            row = classify_image(dit, share, classes, images.pixels[image : image + 1], image)
            row |= {"image": image, "label": images.labels[image].item()}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if count:
            report(kind, read_lines(path), share, markdown)


def report(kind: str, rows: list[dict], share: float, markdown: Markdown) -> None:
    """Tables of finished images."""
    print(f"\n{len(rows)} images of {kind}; a compressed call counts {share:.2f}.\n")
    methods_found = [method for method in METHODS if method in rows[0]["found"]]
    head = ["method", "calls", "accuracy", "wins:losses to paper, McNemar"]
    head += ["right where sure", "time outside the network"]
    markdown(head, [_method_row(method, rows) for method in methods_found])
    if kind == "shapes":
        head = ["method", "shape alone", "texture alone"]
        markdown(head, [_factor_row(method, rows) for method in methods_found])
    print("Confidence against being right, plan balanced.\n")
    markdown(["mean confidence", "images", "right"], _calibration_rows(rows))


def _hits(method: str, rows: list[dict]) -> list[bool]:
    return [row["found"][method]["best"] == row["label"] for row in rows]


def _method_row(method: str, rows: list[dict]) -> list[str]:
    count, hits, paper = len(rows), _hits(method, rows), _hits(PAPER, rows)
    found = [row["found"][method] for row in rows]
    calls = sum(f["spent"] for f in found) / count
    share = calls * count / sum(row["found"][PAPER]["spent"] for row in rows)
    low, high = wilson_interval(sum(hits), count)
    pairs = list(zip(hits, paper, strict=True))
    wins, losses = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    sure = [hit for hit, f in zip(hits, found, strict=True) if f["sure"]]
    network = sum(row["row_seconds"] * f["spent"] for row, f in zip(rows, found, strict=True))
    outside = sum(f["outside"] for f in found)
    return [
        method,
        f"{calls:.1f} ({share:.2f}x)",
        f"{sum(hits) / count:.3f} ({low:.3f} to {high:.3f})",
        f"{wins}:{losses}, p = {mcnemar(hits, paper):.2f}",
        f"{sum(sure)} of {len(sure)}",
        f"{outside / (outside + network):.1%}",
    ]


def _factor_row(method: str, rows: list[dict]) -> list[str]:
    size = len(TEXTURES)
    pairs = [(row["found"][method]["best"], row["label"]) for row in rows]
    shape = sum(a // size == b // size for a, b in pairs) / len(pairs)
    texture = sum(a % size == b % size for a, b in pairs) / len(pairs)
    return [method, f"{shape:.3f}", f"{texture:.3f}"]


def _calibration_rows(rows: list[dict]) -> list[list[str]]:
    found = [
        (_kept_ranking(row["found"]["balanced"]).confidence, hit)
        for row, hit in zip(rows, _hits("balanced", rows), strict=True)
    ]
    lines = []
    for low, high in pairwise(CONFIDENCES):
        inside = [(confidence, hit) for confidence, hit in found if low <= confidence < high]
        if inside:
            mean, share = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            lines.append([f"{mean:.3f}", str(len(inside)), f"{share:.3f}"])
    return lines


def _kept_ranking(found: dict) -> Ranking:
    """From the errors that a line keeps, of the plan balanced."""
    rows, times = found["errors"], found["timesteps"]
    errors = torch.full((len(rows), len(times)), torch.nan, dtype=torch.float64)
    for row, kept in zip(errors, rows, strict=True):
        row[: len(kept)] = torch.tensor(kept, dtype=torch.float64)
    trials = torch.tensor([len(kept) for kept in rows])
    specs = tuple(TrialSpec(time, number) for number, time in enumerate(times))
    return Ranking(TrialTable(errors, specs, PLANS["balanced"].sampler), trials)


def effect(markdown: Markdown) -> None:
    """Theorem 1 on the true class against the plain model's best other one, band by band."""
    dit = load_dit(read_checkpoint(SMALL_DIT))
    images, classes = held_out("shapes", EFFECT_IMAGES)
    names = [CLASS_NAMES[k] for k in classes]
    plan = TrialPlan((20,), (1,), sampler=SpreadGrid())
    plain = DiTRunner(dit).denoiser(classes)
    found = {}
    for image, (pixels, label) in enumerate(
        zip(images.pixels, images.labels.tolist(), strict=True)
    ):
        ranking = classify(plain, pixels[None], names, PLANS["sequential"], image).rankings[0]
        other = next(k for k in ranking.ranked() if k != label)
        pair, labels = [label, other], [names[label], names[other]]
        for method, compression in methods(BUNDLED_PLACEMENT).items():
            denoiser = DiTRunner(dit, compression).denoiser([classes[k] for k in pair])
            result = classify(denoiser, pixels[None], labels, plan, image).rankings[0]
            source = ErrorSource(denoiser, pixels, labels, plan, image)
            bands = band_differences(source, result, 0, 1, BANDS)
            found.setdefault(method, []).append((result, bands))
    lines, parts = [], []
    for method, results in found.items():
        pairs = list(zip(found[OFF], results, strict=True))
        changes = [
            noise_change(
                before.table.errors[1] - before.table.errors[0],
                after.table.errors[1] - after.table.errors[0],
                before.table.specs,
                plan.sampler,
            )
            for (before, _), (after, _) in pairs
        ]
        ratios = torch.tensor([change.log_ratio for change in changes], dtype=torch.float64)
        spread = ratios.std().item() / len(ratios) ** 0.5
        holds = sum(change.holds for change in changes)
        if method != OFF:
            median = ratios.median().exp().item()
            ratio = f"{ratios.mean():+.3f} +- {spread:.3f}"
            lines.append([method, f"{holds} of {len(changes)}", f"{median:.2f}", ratio])
        shares = torch.stack([bands.mean(0) for _, bands in results]).mean(0)
        parts.append([method, *(f"{1e4 * share:.2f}" for share in shares.tolist())])
    print(f"\nTrue class against the best other, {EFFECT_IMAGES} images, 20 trials each.\n")
    markdown(["method", "(S.15) holds", "median r'/r", "mean log r'/r"], lines)
    print("Mean margin by band, from coarse to fine, in units of 1e-4.\n")
    markdown(["method", *(f"band {n + 1}" for n in range(BANDS))], parts)

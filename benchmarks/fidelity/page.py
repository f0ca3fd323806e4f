"""The page: tables of all that was measured, and what the candidate wins and loses against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.demo_report import table as markdown
from benchmarks.fidelity.intervals import Figure, mean, relative, resamples
from benchmarks.fidelity.measuring import TIMESTEPS
from benchmarks.fidelity.settings import (
    CANDIDATE,
    METHODS,
    RIVAL,
    SEEDS,
    WEIGHED,
    Setting,
    sd_layer_gflop,
    settings,
)
from benchmarks.paper.recognition import found_results
from bigain_core.classification import mcnemar

Records = Mapping[str, Sequence[Mapping[str, dict]]]  # for each seed of a method, by image


@dataclass(frozen=True)
class Kind:
    """Records of predictions or of generated images, of the images that every setting has."""

    records: Records

    @classmethod
    def read(cls, folder: Path) -> Kind:
        found: dict[str, list[Mapping[str, dict]]] = {}
        for setting in settings(len(SEEDS)):
            results = found_results(folder, setting.file)
            if results and results.records:
                _check(setting, results.settings)
                found.setdefault(setting.name, []).append(results.records)
        return cls(found)

    @cached_property
    def images(self) -> list[str]:
        every = [set(records) for seeds in self.records.values() for records in seeds]
        return sorted(set.intersection(*every)) if every else []

    @cached_property
    def weights(self) -> Tensor:
        return resamples(len(self.images))

    def column(self, name: str, key: str) -> Tensor:
        """(images,) or (images, T): mean over the seeds."""
        seeds = [[records[n][key] for n in self.images] for records in self.records[name]]
        return torch.tensor(seeds, dtype=torch.float64).mean(0)

    def error(self, name: str) -> Tensor:
        error, size = (self.column(name, key).sum(1) for key in ("error", "size"))
        return relative(self.weights, error, size)

    def attention(self, name: str) -> Tensor:
        """Of the output of attention in a compressed layer that gets what it gets in plain runs."""
        return mean(self.weights, self.column(name, "attention")).sqrt()

    def first(self, name: str, key: str) -> list:
        return [self.records[name][0][n][key] for n in self.images]


def _check(setting: Setting, made: dict) -> None:
    if made["method"] != repr(setting.method):
        raise ValueError(
            f"expected results of {setting.method!r} in the file of {setting.file!r}, got those of "
            f"{made['method']}. Remove the file, or choose another --out."
        )


@dataclass(frozen=True)
class Fidelity:
    """All of one model. Measures are columns of a bootstrap, the same resamples for all methods."""

    predictions: Kind
    generation: Kind
    photos: Mapping[int, Kind] = field(default_factory=dict)  # by tokens of the finest level
    layers: Mapping[str, Kind] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, grids: Mapping[int, Path], layers: Mapping[str, Path]) -> Fidelity:
        predictions, generation = (Kind.read(folder / k) for k in ("predictions", "generation"))
        photos, single = (
            {name: Kind.read(path) for name, path in found.items()} for found in (grids, layers)
        )
        return cls(predictions, generation, photos, single)

    @property
    def names(self) -> list[str]:
        return [
            n for n in METHODS if n in self.predictions.records and n in self.generation.records
        ]

    def gflop(self, name: str) -> float:
        return self.predictions.first(name, "flops")[0] / 1e9

    def error(self, name: str) -> Tensor:
        return self.predictions.error(name)

    def by_level(self, name: str) -> Tensor:
        kind = self.predictions
        return relative(kind.weights, kind.column(name, "error"), kind.column(name, "size"))

    def difference(self, name: str) -> Tensor:
        kind = self.predictions
        return relative(kind.weights, kind.column(name, "difference"), kind.column(name, "of"))

    def rmse(self, name: str) -> Tensor:
        """Of pixels in [0, 1]."""
        return mean(self.generation.weights, self.generation.column(name, "square")).sqrt()

    def similarity(self, name: str) -> Tensor:
        return mean(self.generation.weights, self.generation.column(name, "ssim"))

    def flip(self, name: str) -> Tensor:
        return mean(self.generation.weights, self.generation.column(name, "flip"))

    def ranks(self, name: str) -> Tensor:
        return mean(self.predictions.weights, self.predictions.column(name, "ranks"))

    def same(self, name: str) -> Tensor:
        return mean(self.predictions.weights, self.predictions.column(name, "same"))


MEASURES = {
    "prediction": Fidelity.error, "prompt differences": Fidelity.difference,
    "generated images": Fidelity.rmse,
}  # fmt: skip
NOTES = """\
How far a compressed model is from the plain one: the same images, timesteps, noise and prompts for
all methods. "Prediction" is the relative L2 error of the predicted noise, "prompt differences" that
of the predictions less their mean over ten prompts, "ranks" Spearman's correlation of the prompts'
errors with those of the plain model, "decision" how often the same prompt has the least error,
RMSE, SSIM and FLIP are of images generated from the same noise, pixels from 0 to 1. Of
photographs, which the models never saw, "attention" is the relative L2 error of what a compressed
layer returns where all layers get what they get in the plain model. Brackets are 95 %
intervals of the bootstrap over images. Methods that draw are means over their seeds, but for
McNemar's test of decisions, which has the first."""


def of_model(found: Fidelity) -> str:
    """Tables of one model."""
    names = found.names
    photos = [_photos(kind, tokens) for tokens, kind in found.photos.items() if kind.images]
    photos += [_layer(kind, name) for name, kind in found.layers.items() if kind.images]
    if not names:
        return "\n\n".join(photos) or "Nothing was measured yet."
    images = f"{len(found.predictions.images)} images, {len(found.generation.images)} generated"
    seeds = max(map(len, found.predictions.records.values()))
    plain = found.predictions.first(names[0], "plain_flops")[0] / 1e9
    right = found.predictions.first(names[0], "plain_right")
    about = (
        f"{images}, seeds of methods that draw: {seeds}. "
        f"The plain model: {plain:.4g} GFLOP a call, {sum(right)} of {len(right)} right."
    )
    parts = [about, _figures(found, names), _levels(found, names)]
    pairs = {name: (CANDIDATE, name) for name in names if name != CANDIDATE}
    weighed = {f"{n}{WEIGHED}": (f"{n}{WEIGHED}", n) for n in names if f"{n}{WEIGHED}" in names}
    if CANDIDATE in names:
        title = f"Errors of {CANDIDATE}, as a share of those of each other method:"
        parts.append(_ratios(found, title, pairs))
    if weighed:
        title = "Errors with weighed keys, as a share of those without:"
        parts.append(_ratios(found, title, weighed))
    parts += photos
    return "\n\n".join(parts)


def _figures(found: Fidelity, names: Sequence[str]) -> str:
    rows = []
    for name in names:
        measures = [measure(found, name) for measure in MEASURES.values()]
        rows.append([
            name, f"{found.gflop(name):.4g}", f"{sd_layer_gflop(METHODS[name]):.2f}",
            *(str(Figure.of(m)) for m in measures), f"{found.similarity(name)[0].item():.3f}",
            f"{found.flip(name)[0].item():.3g}", f"{found.ranks(name)[0].item():.3f}",
            f"{found.same(name)[0].item():.3f}", _decisions(found, name),
        ])  # fmt: skip
    head = [
        "method", "GFLOP", "SD layer", "prediction", "prompt differences", "RMSE", "SSIM", "FLIP",
        "ranks", "decision", f"against {RIVAL}",
    ]  # fmt: skip
    return markdown(head, rows)


def _photos(kind: Kind, tokens: int) -> str:
    title = f"{len(kind.images)} photographs, {tokens} tokens in the finest level:"
    return _on_photos(kind, title, {"prediction": Kind.error, "attention": Kind.attention})


def _layer(kind: Kind, name: str) -> str:
    title = f"{len(kind.images)} photographs, one layer alone ({name}):"
    return _on_photos(kind, title, {"attention": Kind.error})


def _on_photos(
    kind: Kind, title: str, measures: Mapping[str, Callable[[Kind, str], Tensor]]
) -> str:
    """Errors, and what the candidate's are as a share of them."""
    rows = []
    for name in (n for n in METHODS if n in kind.records):
        errors = [measure(kind, name) for measure in measures.values()]
        shares = ["-"] * len(errors)
        if CANDIDATE in kind.records and name != CANDIDATE:
            own = (measure(kind, CANDIDATE) for measure in measures.values())
            shares = [_judged(Figure.of(a / b)) for a, b in zip(own, errors, strict=True)]
        rows.append([name, *(str(Figure.of(e)) for e in errors), *shares])
    first, *others = measures
    return f"{title}\n\n{markdown(['method', *measures, f'{CANDIDATE}: {first}', *others], rows)}"


def _decisions(found: Fidelity, name: str) -> str:
    """Images on which only this method, or only the rival, decides as the plain model does."""
    if name == RIVAL or RIVAL not in found.names:
        return "-"
    ours, theirs = (found.predictions.first(n, "same") for n in (name, RIVAL))
    wins = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    losses = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    return f"{wins}:{losses}, p = {mcnemar(ours, theirs):.2g}"


def _levels(found: Fidelity, names: Sequence[str]) -> str:
    rows = [[name, *(f"{x:.3g}" for x in found.by_level(name)[0].tolist())] for name in names]
    title = "Error of the prediction by timestep, 999 pure noise:"
    return f"{title}\n\n{markdown(['method', *map(str, TIMESTEPS)], rows)}"


def _ratios(found: Fidelity, title: str, pairs: Mapping[str, tuple[str, str]]) -> str:
    """Errors of the first of each pair in units of those of the second, and the verdicts."""
    rows = []
    for name, (ours, theirs) in pairs.items():
        ratios = [
            Figure.of(measure(found, ours) / measure(found, theirs))
            for measure in MEASURES.values()
        ]
        cost = found.gflop(ours) / found.gflop(theirs)
        rows.append([name, f"{cost:.2f}", *map(_judged, ratios)])
    return f"{title}\n\n{markdown(['method', 'GFLOP', *MEASURES], rows)}"


def _judged(ratio: Figure) -> str:
    return f"{ratio}, {verdict(ratio)}"


def verdict(ratio: Figure) -> str:
    """Whether an error that is such a share of another one is smaller, as its interval says."""
    return "wins" if ratio.high < 1 else "loses" if ratio.low > 1 else "ties"


def whole(models: Mapping[str, Fidelity]) -> str:
    parts = ["# Fidelity", NOTES]
    for name, found in models.items():
        parts.append(f"## {name}\n\n{of_model(found)}")
    return "\n\n".join(parts) + "\n"

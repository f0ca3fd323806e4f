"""What is compared: methods, once for each seed where they draw, and the lines of the chart."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from bigain_core.compression.break_even import saved_flops
from bigain_core.measure.flops import input_shortened
from bigain_core.methods import (
    BlockMerging,
    KeyMerging,
    KeyPairs,
    KVDownsampling,
    Method,
    SimilarityPruning,
    TokenMerging,
)
from bigain_core.schedules import AlphaSchedule
from bigain_core.tokens.grid import TokenGrid

SEEDS = (0, 1, 2)
RIVAL, CANDIDATE = "IE-KVD 2", "key pairs 2"
WEIGHED = ", weighed"  # behind the name of a method
SD_GRID, SD_WIDTH = TokenGrid(64, 64), 320  # a layer of Stable Diffusion at 512 pixels


def _pooled(factor: int, alpha: float) -> Method:
    return KVDownsampling(factor, AlphaSchedule(alpha, alpha))


def _merged_keys(factor: int, **others) -> Method:
    return KeyMerging(1 - 1 / factor**2, cell=factor, **others)


LINES: Mapping[str, Mapping[str, Method]] = {  # methods by their names, of each line of the chart
    "ToMe": {"ToMe 0.7": TokenMerging(0.7, "random")},
    "ToMe, weighed": {f"ToMe 0.7{WEIGHED}": TokenMerging(0.7, "random", proportional=True)},
    "L-GTM": {f"L-GTM {ratio:g}": TokenMerging(ratio) for ratio in (0.3, 0.5, 0.7)},
    "L-GTM, weighed": {
        f"L-GTM {ratio:g}{WEIGHED}": TokenMerging(ratio, proportional=True) for ratio in (0.5, 0.7)
    },
    "adaptive block merge": {"adaptive block merge 0.7": BlockMerging(0.7)},
    "block merge, weighed": {
        f"adaptive block merge 0.7{WEIGHED}": BlockMerging(0.7, proportional=True)
    },
    "SiTo": {"SiTo 0.7": SimilarityPruning(0.7)},
    "ToDo": {f"ToDo {factor}": _pooled(factor, 1.0) for factor in (2, 4)},
    "IE-KVD": {f"IE-KVD {factor}": _pooled(factor, 0.9) for factor in (2, 4)},
    "random places": {
        f"ToDo {factor}, random places": replace(_pooled(factor, 1.0), random_places=True)
        for factor in (2, 4)
    },
    "average": {f"average {factor}": _pooled(factor, 0.0) for factor in (2, 4)},
    "key merging": {
        "key merging 2": _merged_keys(2),
        "key merging, 1/8 of the keys": KeyMerging(0.875, cell=3),
        "key merging 4": _merged_keys(4),
    },
    "key pairs": {
        CANDIDATE: KeyPairs(),
        "key pairs, 1/8 of the keys": KeyPairs(0.875),
        "key pairs 4": KeyPairs(0.9375),
    },
    "variants of key merging": {
        "key merging 2, windows of 8": _merged_keys(2, window=8),
        **{f"key merging 2, alpha {a:g}": _merged_keys(2, alpha=a) for a in (0.0, 0.3, 0.6)},
    },
}
COLOURS = dict(
    zip(
        LINES,
        ("#cf222e", "#ff8182", "#1a7f37", "#4ac26b", "#8250df", "#c297ff", "#9a6700", "#bf3989",
         "#0969da", "#54aeff", "#8c959f", "#1f2328", "#d4a72c", "#6e7781"),
        strict=True,
    )
)  # fmt: skip
METHODS = {name: method for line in LINES.values() for name, method in line.items()}
FEW = (  # that are measured where each takes minutes
    "L-GTM 0.7", f"L-GTM 0.5{WEIGHED}", RIVAL, "ToDo 2, random places", "average 2",
    "key merging 2", CANDIDATE, "key pairs, 1/8 of the keys",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A method with one seed."""

    name: str
    method: Method
    seed: int = 0

    @property
    def file(self) -> str:
        return f"{self.name} seed {self.seed}"


def settings(seeds: int, names: Collection[str] = ()) -> Iterator[Setting]:
    """Every method, or those of these names, with the first of SEEDS where it draws."""
    for name, method in METHODS.items():
        if names and name not in names:
            continue
        drawing = hasattr(method, "seed") and getattr(method, "destinations", "random") == "random"
        drawing = drawing and getattr(method, "random_places", True)
        for seed in SEEDS[:seeds] if drawing else SEEDS[:1]:
            own = replace(method, seed=seed) if drawing else method
            yield Setting(name, own, seed)


def sd_layer_gflop(method: Method) -> float:
    """Operations of such a layer of Stable Diffusion, deciding included."""
    plain = input_shortened(SD_WIDTH, *[SD_GRID.tokens] * 3)
    return (plain - saved_flops(method, SD_GRID, SD_WIDTH, input_shortened)) / 1e9

"""What each table of the supplement compares, as data.

A row is one way to run a model; it is measured once, however many tables it stands in. Placements
are those of a UNet, and `models.py` says what stands for them in a transformer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from benchmarks.paper.experiments import OwnDraws, SharedPlan
from bigain_core.compression.presets import ALPHAS, PRESETS, SCHEDULES, TABLE_3
from bigain_core.compression.rules import Compression, Rule
from bigain_core.methods import (
    KeyMerging,
    KeyPairs,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Method,
    TokenMerging,
)
from bigain_core.placement import Placement, named_placement
from bigain_core.schedules import AlphaSchedule

FINEST, ENCODER, DECODER = Placement(), named_placement("encoder"), named_placement("decoder")
EVERY_LEVEL = Placement(levels=9)

OFF = "off"
TOME, L_GTM, CACHED = "ToMe 0.7", "L-GTM 0.7", "L-GTM 0.7, cached assignment"
BLOCKS, SITO = "adaptive block merge 0.7", "SiTo 0.7"
TODO, IE_KVD = "ToDo factor 2", "IE-KVD factor 2"
KEY_MERGING, KEY_PAIRS = "key merging factor 2", "key pairs factor 2"
RANDOM_PLACES = "ToDo factor 2, random places"
HYBRIDS = ("L-GTM encoder, IE-KVD decoder", "IE-KVD encoder, L-GTM decoder")
OTHER_RATIOS = (0.1, 0.3, 0.5, 0.75)
BEST_SCHEDULE = (0.8, 1.2)  # of Table 8


@dataclass(frozen=True)
class Row:
    """`own_noise`: each prompt of the classifier sees noise of its own.

    `unets_only`: in a transformer it would be another row once more.
    """

    compression: Compression = Compression()
    own_noise: bool = False
    unets_only: bool = False


@dataclass(frozen=True)
class Table:
    """{row: the row it is compared with, "" for none} for each thing that is measured.

    Operations are counted and calls are timed for all rows; a table without either of the others is
    about those.
    """

    title: str
    recognition: Mapping[str, str] = field(default_factory=dict)
    generation: Mapping[str, str] = field(default_factory=dict)
    cost: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.recognition, *self.generation, *self.cost]))


def _row(method: Method, placement: Placement = FINEST, **others) -> Row:
    return Row(Compression((Rule(method, placement),)), **others)


def alpha_row(factor: int, alpha: float) -> str:
    """ToDo and IE-KVD are rows of Table 7."""
    known = {(2, 1.0): TODO, (2, 0.9): IE_KVD}
    return known.get((factor, alpha), f"factor {factor}, alpha {alpha:g}")


def schedule_row(ends: tuple[float, float]) -> str:
    return "alpha {:g} to {:g}".format(*ends)


def _scheduled(row: Row, ends: tuple[float, float]) -> Row:
    """The row with alpha on a schedule wherever keys are pooled."""

    def changed(rule: Rule) -> Rule:
        if not isinstance(rule.method, KVDownsampling):
            return rule
        return replace(rule, method=replace(rule.method, alpha=AlphaSchedule(*ends)))

    return replace(row, compression=Compression(tuple(map(changed, row.compression.rules))))


MERGING = {
    f"{name} {ratio:g}": _row(TokenMerging(ratio, destinations))
    for ratio in OTHER_RATIOS
    for name, destinations in (("ToMe", "random"), ("L-GTM", "lowest"))
}
SELECTIONS = {
    **{f"keys of {kind} frequency": _row(KVSelection(kind)) for kind in ("high", "low", "medium")},
    "keys of all frequencies": _row(KVSelection("uniform")),
    **{
        f"key of {kind} frequency per cell": _row(KVCellSelection(kind, blend=1.0))
        for kind in ("high", "low", "median")
    },
}
POOLING = {
    alpha_row(factor, alpha): Row(PRESETS[f"Table 7: factor {factor}, alpha {alpha:g}"])
    for factor in (2, 4)
    for alpha in ALPHAS
}
SCHEDULED = {
    schedule_row(ends): Row(PRESETS[f"Table 8: {schedule_row(ends)}"]) for ends in SCHEDULES
}
MIXED = {name: Row(PRESETS[f"Table 9: {name}"]) for name in HYBRIDS}
MIXED_SCHEDULED = {
    f"{name}, {schedule_row(BEST_SCHEDULE)}": _scheduled(row, BEST_SCHEDULE)
    for name, row in MIXED.items()
}
VARIANTS = {
    "L-GTM 0.7, published destination rule": _row(TokenMerging(0.7, "published")),
    "L-GTM 0.7, borders replicated": _row(TokenMerging(0.7, padding="replicate")),
    # A transformer always has the metric after the norm, as published.
    "L-GTM 0.7, metric after the norm": _row(TokenMerging(0.7, metric="normed"), unets_only=True),
    "L-GTM 0.7, encoder only": _row(TokenMerging(0.7), ENCODER),
    "L-GTM 0.7, one plan for all prompts": _row(SharedPlan(TokenMerging(0.7))),
}
OWN_DRAWS, OWN_NOISE = "ToMe 0.7, own draw for each prompt", "off, own noise for each prompt"
BEYOND = {  # with as many keys as IE-KVD
    RANDOM_PLACES: _row(KVDownsampling(2, AlphaSchedule(1.0, 1.0), random_places=True)),
    KEY_MERGING: _row(KeyMerging()),
    KEY_PAIRS: _row(KeyPairs()),
}
EVERYWHERE = {
    f"{name}, every layer": Row(
        Compression(tuple(replace(r, placement=EVERY_LEVEL) for r in c.rules))
    )
    for name, c in TABLE_3.items()
    if name in (TOME, L_GTM, TODO, IE_KVD)
}

ROWS: dict[str, Row] = {
    OFF: Row(),
    **{name: Row(compression) for name, compression in TABLE_3.items()},
    **MERGING,
    **SELECTIONS,
    **POOLING,
    **SCHEDULED,
    **MIXED,
    **MIXED_SCHEDULED,
    **VARIANTS,
    **EVERYWHERE,
    **BEYOND,
    OWN_DRAWS: _row(OwnDraws(0.7)),
    OWN_NOISE: Row(own_noise=True),
}

_PAIRS = {OFF: "", TOME: OFF, L_GTM: TOME, TODO: OFF, IE_KVD: TODO}
_BEYOND = {OFF: "", TODO: OFF, IE_KVD: TODO, **dict.fromkeys(BEYOND, IE_KVD)}
_METHODS = {**_PAIRS, SITO: TOME, CACHED: L_GTM, BLOCKS: TOME}


def _everywhere(name: str) -> str:
    return name if name == OFF else f"{name}, every layer"


def _ablation() -> dict[str, str]:
    ratios = sorted((*OTHER_RATIOS, 0.7))
    return {
        OFF: "",
        OWN_NOISE: OFF,
        **{f"ToMe {ratio:g}": OFF for ratio in ratios},
        **{f"L-GTM {ratio:g}": f"ToMe {ratio:g}" for ratio in ratios},
        OWN_DRAWS: TOME,
        **dict.fromkeys(VARIANTS, L_GTM),
        **{_everywhere(row): _everywhere(other) for row, other in _PAIRS.items() if other},
    }


def _alphas() -> dict[str, str]:
    """Against nearest sampling, alpha 1, of the same factor."""
    found = {OFF: ""}
    for factor in (2, 4):
        nearest = alpha_row(factor, 1.0)
        rows = {alpha_row(factor, alpha): nearest for alpha in ALPHAS}
        found |= rows | {nearest: OFF}
    return found


def _selections() -> dict[str, str]:
    """Against all frequencies; one of each cell against nearest sampling, which takes one too."""
    apart = {name: TODO if "per cell" in name else "keys of all frequencies" for name in SELECTIONS}
    return {OFF: "", TODO: OFF, **apart, "keys of all frequencies": TODO}


_HYBRIDS = {**_PAIRS, **dict.fromkeys(MIXED, L_GTM)}
TABLES: dict[str, Table] = {
    "3": Table("Table 3: the methods", _METHODS, _METHODS),
    "4": Table("Table 4: keys chosen by frequency", _selections()),
    "6": Table("Table 6: many classes", _PAIRS),
    "7": Table("Table 7: alpha", _alphas()),
    "8": Table(
        "Table 8: alpha over time", {}, {OFF: "", TODO: OFF, **dict.fromkeys(SCHEDULED, TODO)}
    ),
    "9": Table(
        "Table 9: both operators",
        _HYBRIDS,
        {**_HYBRIDS, schedule_row(BEST_SCHEDULE): TODO, **dict.fromkeys(MIXED_SCHEDULED, L_GTM)},
    ),
    "10": Table("Table 10: operations and time", cost=(*_METHODS, *MIXED)),
    "ablation": Table("Ablation", _ablation()),
    "beyond": Table("Beyond the paper: keys by content", _BEYOND, _BEYOND, tuple(_BEYOND)),
}


def translated(compression: Compression, places: Mapping[Placement, Placement]) -> Compression:
    """The rules of a row where `places` puts them in another network."""
    rules = (replace(r, placement=places.get(r.placement, r.placement)) for r in compression.rules)
    return Compression(tuple(rules))


def chosen(tables: Iterable[str], parts: Iterable[str] = ()) -> dict[str, Table]:
    """Tables by name, with the rows whose names contain one of `parts`, if any, and their rivals.

    Raises ValueError where nothing is left.
    """
    parts = tuple(parts)

    def reduced(rows: Mapping[str, str]) -> dict[str, str]:
        wanted = {row for row in rows if not parts or any(part in row for part in parts)}
        other_classes = {rows[row] for row in wanted}
        return {row: other for row, other in rows.items() if row in wanted | other_classes}

    found = {
        name: replace(
            table,
            recognition=reduced(table.recognition),
            generation=reduced(table.generation),
            cost=tuple(reduced(dict.fromkeys(table.cost, OFF))),
        )
        for name, table in ((name, TABLES[name]) for name in tables)
    }
    if not any(table.rows for table in found.values()):
        raise ValueError(
            f"expected a part of the name of a row in {list(found)}, got {list(parts)}; rows are "
            f"{[row for name in found for row in TABLES[name].rows]}."
        )
    return found

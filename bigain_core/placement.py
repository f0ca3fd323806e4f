"""Which attention layers a rule applies to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

Module = TypeVar("Module")

LAST_LAYER = 9999  # far beyond any model: a longer range would only fill memory


@dataclass(frozen=True)
class LayerId:
    """Where a self-attention layer sits: its number in execution order, its stage and its level.

    Level 1 is the finest attention resolution of the model, level 2 the next coarser one. A
    transformer has a single stage and level.
    """

    number: int
    stage: str
    level: int = 1


def transformer_layers(modules: Iterable[Module]) -> list[tuple[LayerId, Module]]:
    """Modules in order of execution, each with its id."""
    return [(LayerId(number, "transformer"), module) for number, module in enumerate(modules)]


def unwrapped(module):
    """The module itself where torch.compile, or a wrapper like its own, stands in its place."""
    while (inner := getattr(module, "_orig_mod", None)) is not None:
        module = inner
    return module


def modules_at(network, path: str) -> Iterator:
    """Modules of a network at a path such as "blocks.*.attn", through wrappers around any of them.

    "*" is each child of a container, "a|b" behind it are two modules of each. None comes where a
    child has no such module: another node has put one of its own there. A container that the
    network does not have has no children.
    """
    container, _, ends = path.partition(".*")
    for child in getattr(unwrapped(_at(network, container)), "children", tuple)():
        for end in ends.removeprefix(".").split("|"):
            yield _at(child, end)


def _at(module, path: str):
    for name in filter(None, path.split(".")):
        module = getattr(unwrapped(module), name, None)
    return module


@dataclass(frozen=True)
class Placement:
    """Layers by stage, number and level; None stands for all.

    Levels from `finest_level` to `levels` are covered. A covered layer with fewer than `min_tokens`
    tokens in a call is skipped.
    """

    stages: tuple[str, ...] | None = None
    layers: tuple[int, ...] | None = None
    levels: int = 1
    min_tokens: int = 0
    finest_level: int = 1

    def covers(self, layer_id: LayerId) -> bool:
        return (
            (self.stages is None or layer_id.stage in self.stages)
            and (self.layers is None or layer_id.number in self.layers)
            and self.finest_level <= layer_id.level <= self.levels
        )


def named_placement(
    name: str, levels: int = 1, blocks: str = "", min_tokens: int = 0, finest_level: int = 1
) -> Placement:
    """A placement by name; transformer presets count blocks from zero (paper, section "DiT").

    `blocks` such as "1-5, 7-11" replaces the layers of a preset.

    Raises ValueError for a name outside PLACEMENTS or blocks of another form.
    """
    if name not in PLACEMENTS:
        raise ValueError(f"BiGain: expected a placement of {tuple(PLACEMENTS)}, got {name!r}.")
    stages, layers = PLACEMENTS[name]
    return Placement(stages, parse_blocks(blocks) or layers, levels, min_tokens, finest_level)


def parse_blocks(text: str) -> tuple[int, ...]:
    """Numbers and ranges, both ends included: "1-3, 7" -> (1, 2, 3, 7); empty text -> ().

    Raises ValueError for anything else, and for a number above LAST_LAYER.
    """
    numbers: set[int] = set()
    for part in filter(None, re.split(r"[,\s]+", text)):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise ValueError(
                "BiGain: expected attention layers as numbers and ascending ranges such as 1-5, "
                f"7-11, got {part!r} in {text!r}."
            )
        if int(found[2] or found[1]) > LAST_LAYER:
            raise ValueError(
                f"BiGain: expected attention layers up to {LAST_LAYER}, got {part!r} in {text!r}. "
                "BiGain Report numbers the layers of a model."
            )
        numbers.update(range(int(found[1]), int(found[2] or found[1]) + 1))
    return tuple(sorted(numbers))


def block_ranges(numbers: Iterable[int]) -> str:
    """The text that `parse_blocks` reads: (1, 2, 3, 7) -> "1-3, 7"."""
    ordered = sorted(numbers)
    ends = [n for n, (a, b) in enumerate(pairwise(ordered), 1) if b > a + 1]
    runs = (ordered[a:b] for a, b in pairwise([0, *ends, len(ordered)]))
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


# The published DiT scripts skip blocks 0 and 6, although the text says 1-6 and 7-12.
PLACEMENTS = {
    "everywhere": (None, None),
    "encoder": (("encoder",), None),
    "middle": (("middle",), None),
    "decoder": (("decoder",), None),
    "blocks 0-5 (early)": (("transformer",), tuple(range(6))),
    "blocks 6-11 (mid-early)": (("transformer",), tuple(range(6, 12))),
    "blocks 0-11": (("transformer",), tuple(range(12))),
    "blocks 1-5 and 7-11 (published)": (("transformer",), (1, 2, 3, 4, 5, 7, 8, 9, 10, 11)),
}

"""What a benchmark of a model's settings found: times beside what operations promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..text import csv_table
from .timing import Spread, Times

OFF = "off"
COLUMNS = (
    "setting", "ms", "ms low", "ms high", "times as fast", "low", "high", "TFLOP", "ceiling",
    "share of ceiling", "deviation", "peak MB", "layers",
)  # fmt: skip
UNSTEADY = 0.1  # by how much gains within and across rounds differ where rounds do not compare
HOLDS = 0.02  # gains closer to 1 than this are not told apart from none


@dataclass(frozen=True)
class Measured:
    """One setting of a model beside the others.

    `flops` are those of a network call for one sample, 0 where nobody counted. `deviation` is the
    root mean square of what the output differs by from that of "off", relative to it. `memory` are
    bytes at the peak of a call, above what lay there before; None where they cannot be measured.
    `layers` is the number of compressed ones, None where no rule of ours acts.
    """

    times: Times
    flops: int
    deviation: float
    memory: int | None
    layers: int | None


@dataclass(frozen=True)
class Benchmark:
    """Settings by name, "off" among them, and what they were measured on."""

    measured: dict[str, Measured]
    device: str
    latent: Sequence[int]

    def gain(self, name: str) -> Spread:
        """How many times as fast as "off", within rounds."""
        return self.measured[name].times.gain_over(self.measured[OFF].times)

    def ceiling(self, name: str) -> float | None:
        """The gain if time went with operations; None where they were not counted."""
        plain, flops = self.measured[OFF].flops, self.measured[name].flops
        return plain / flops if plain and flops else None

    def share_of_ceiling(self, name: str) -> float | None:
        """Time saved by the time that fewer operations promise; None where they promise none."""
        ceiling = self.ceiling(name)
        if ceiling is None or ceiling <= 1:
            return None
        return (1 - 1 / self.gain(name).median) / (1 - 1 / ceiling)

    def table(self) -> str:
        """CSV with a row for each setting; a cell is empty where there is no number."""
        return csv_table(COLUMNS, ([name, *self._cells(name)] for name in self.measured))

    def _cells(self, name: str) -> list[str]:
        found, gain = self.measured[name], self.gain(name)
        spread = found.times.spread
        memory = None if found.memory is None else found.memory / 2**20
        return [
            *map(_milliseconds, (spread.median, spread.low, spread.high)),
            *(f"{times:.2f}" for times in (gain.median, gain.low, gain.high)),
            f"{found.flops / 1e12:.4g}" if found.flops else "",
            _cell(self.ceiling(name), ".2f"),
            _cell(self.share_of_ceiling(name), ".0%"),
            f"{found.deviation:.4f}",
            _cell(memory, ".0f"),
            _cell(found.layers, "d"),
        ]

    def summary(self) -> str:
        """One line: the fastest setting, or that none is faster, and the slower ones by name."""
        others = [name for name in self.measured if name != OFF]
        best = max(others, key=lambda name: self.gain(name).median)
        gain = self.gain(best).median
        size = " x ".join(map(str, self.latent))
        text = f"BiGain on {self.device}, latent {size}: "
        if gain > 1 + HOLDS:
            text += f"{best} is the fastest, {gain:.2f}x as fast as off."
        else:
            text += "NOTHING here is faster than off."
        slower = [name for name in others if self.gain(name).median < 1 - HOLDS]
        if slower:
            text += f" Slower than off: {', '.join(slower)}."
        plain, fastest = (self.measured[name].times.spread.median for name in (OFF, best))
        if not 1 - UNSTEADY < plain / fastest / gain < 1 + UNSTEADY:
            text += " Times changed much from round to round; take more rounds on an idle machine."
        return text


def _milliseconds(seconds: float) -> str:
    """With no more digits than rounds agree in."""
    taken = 1000 * seconds
    return f"{taken:.0f}" if taken >= 100 else f"{taken:.3g}"


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

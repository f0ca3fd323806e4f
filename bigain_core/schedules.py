"""When a rule acts and how strongly."""

from __future__ import annotations

from dataclasses import dataclass

LAST_TIMESTEP = 999


@dataclass(frozen=True)
class Moment:
    """A point of the denoising process; progress runs from 0 (pure noise) to 1 (clean)."""

    progress: float

    @classmethod
    def at_timestep(cls, timestep: float) -> Moment:
        """`timestep` in [0, 999], the axis of the paper's schedules."""
        return cls(1 - timestep / LAST_TIMESTEP)

    @property
    def timestep(self) -> float:
        return (1 - self.progress) * LAST_TIMESTEP


@dataclass(frozen=True)
class AlphaSchedule:
    """alpha(t) = start * t / 999 + end * (1 - t / 999): `start` at pure noise, `end` when clean.

    Linear in the timestep value, not in the step number (paper, Table 8). Equal ends are constant.
    """

    start: float
    end: float

    def at(self, timestep: float) -> float:
        return self.end + (self.start - self.end) * timestep / LAST_TIMESTEP


@dataclass(frozen=True)
class ActiveRange:
    """Share of the denoising process in which a rule acts, both ends included."""

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                "BiGain: expected 0 <= start <= end <= 1 for the active range, got "
                f"start {self.start} and end {self.end}. Swap or widen them."
            )

    def contains(self, moment: Moment) -> bool:
        return self.start <= moment.progress <= self.end

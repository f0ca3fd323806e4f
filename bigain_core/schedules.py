"""When a rule acts and how strongly."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np

LAST_TIMESTEP = 999


@dataclass(frozen=True)
class DenoisingProgress:
    """A point of the denoising process: `fraction` runs from 0 (pure noise) to 1 (clean)."""

    fraction: float

    @property
    def timestep(self) -> float:
        """In [0, 999], the axis of the paper's schedules."""
        return (1 - self.fraction) * LAST_TIMESTEP


@dataclass(frozen=True)
class AlphaSchedule:
    """alpha(t) = start * t / 999 + end * (1 - t / 999): `start` at pure noise, `end` when clean.

    Linear in the timestep value, not in the step number (paper, Table 8). Equal ends are constant.
    """

    start: float
    end: float

    def at(self, timestep: float) -> float:
        return self.end + (self.start - self.end) * timestep / LAST_TIMESTEP

    def __str__(self) -> str:
        return f"{self.start:g}" if self.start == self.end else f"{self.start:g} to {self.end:g}"


@dataclass(frozen=True)
class AlphaCurve:
    """alpha by (timestep, alpha) points: straight lines between them, constant beyond the ends.

    Raises ValueError for no point, a timestep outside [0, 999] or one that comes twice.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self):
        timesteps = [timestep for timestep, _ in self.points]
        inside = all(0 <= timestep <= LAST_TIMESTEP and isfinite(a) for timestep, a in self.points)
        if not timesteps or not inside or len(set(timesteps)) < len(timesteps):
            raise ValueError(
                "BiGain: expected an alpha curve of at least one point, timesteps from 0 to "
                f"{LAST_TIMESTEP}, none twice, and finite values, got {self.points}."
            )

    @classmethod
    def from_text(cls, text: str) -> AlphaCurve:
        """Points as "999: 0.8, 400: 1, 0: 1.2" or one per line, in any order.

        Raises ValueError for anything else.
        """
        try:
            pairs = [part.split(":") for part in text.replace("\n", ",").split(",") if part.strip()]
            points = tuple((float(timestep), float(alpha)) for timestep, alpha in pairs)
        except ValueError as error:
            raise ValueError(
                "BiGain: expected an alpha curve of `timestep: alpha` points such as 999: 0.8, "
                f"0: 1.2, got {text!r}."
            ) from error
        return cls(points)

    def at(self, timestep: float) -> float:
        return float(np.interp(timestep, *zip(*sorted(self.points), strict=True)))

    def __str__(self) -> str:
        return f"curve of {len(self.points)} points"


Alpha = AlphaSchedule | AlphaCurve


@dataclass(frozen=True)
class ActiveRange:
    """Share of the denoising process in which a rule acts, both ends included.

    With `strict_end` the end itself is left out: the published cutoff, t / 1000 > stop, which skips
    the last step of a run that ends at timestep 0.
    """

    start: float = 0.0
    end: float = 1.0
    strict_end: bool = False

    def __post_init__(self):
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                "BiGain: expected 0 <= start <= end <= 1 for the active range, got "
                f"start {self.start} and end {self.end}. Swap or widen them."
            )

    def contains(self, progress: DenoisingProgress) -> bool:
        fraction = progress.fraction
        before_end = fraction < self.end if self.strict_end else fraction <= self.end
        return self.start <= fraction and before_end

"""Whoever wants to know how far a run is."""

from __future__ import annotations


class Listener:
    """Hears of the progress of a run; a subclass overrides what it wants to know."""

    def on_calls(self, calls: int) -> None:
        """So many more evaluations of a network are done."""

    def on_trial(self, snapshot) -> None:
        """A trial of an image is over; `snapshot` says how its prompts stand."""

    def on_image(self) -> None:
        """One more image of a set is done."""


SILENT = Listener()

"""The bar under a node."""

from __future__ import annotations

from comfy.utils import ProgressBar

from ..bigain_core.listener import Listener


class CallBar(Listener):
    """Is full when so many evaluations of a network are done."""

    def __init__(self, calls: int):
        self.bar = ProgressBar(calls)

    def on_calls(self, calls: int) -> None:
        self.bar.update(calls)

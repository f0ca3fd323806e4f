"""In what settings differ, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isclose
from os.path import commonprefix

from .elimination.trial_plan import PLANS

LONG, BEFORE = 100, 20  # characters of a value, and those in front of where it differs
WORDS = {  # what is kept as a number that says nothing to a reader
    "weights": "weights (another checkpoint, or another precision)",
    "LoRAs": "LoRAs or other patches of weights, or their strength",
    "noise levels": "noise levels (a sampling patch, or another kind of prediction)",
    "encoded prompts": "encoded prompts (text encoder, template or guidance)",
}


def differences(found: Mapping, wanted: Mapping, tolerance: float = 0.0) -> dict[str, str]:
    """{setting: what was found instead of what is wanted}, empty where all are the same.

    tolerance: by how much fractions may differ, relative to them or 1.
    """
    pairs = {key: (found.get(key), wanted.get(key)) for key in {**wanted, **found}}
    differing = {key: pair for key, pair in pairs.items() if not _same(*pair, tolerance)}
    return {key: _words(key, *pair) for key, pair in differing.items()}


def _same(one, other, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    return one == other


def _words(key: str, found, wanted) -> str:
    if key in WORDS:
        return f"other {WORDS[key]}"
    if key == "plan":
        return f"preset: {_preset(found)} -> {_preset(wanted)}"
    texts = [_text(value) for value in (found, wanted)]
    start = len(commonprefix(texts)) - BEFORE
    return f"{key} {' for '.join(_part(text, start) for text in texts)}"


def _preset(plan: str) -> str:
    return next((name for name, known in PLANS.items() if repr(known) == plan), "a custom one")


def _text(value) -> str:
    return "none" if value in (None, [], "") else json.dumps(value, ensure_ascii=False)


def _part(text: str, start: int) -> str:
    """The text if it is short, else what stands around its character `start`."""
    if len(text) <= LONG:
        return text
    start = max(min(start, len(text) - LONG), 0)
    end = start + LONG
    return "..." * (start > 0) + text[start:end] + "..." * (end < len(text))

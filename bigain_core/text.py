"""Tables and lists as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

NAMED = 5  # labels or files that a sentence names


def csv_table(columns: Sequence[str], rows: Iterable[Iterable]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def abbreviate(names: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")

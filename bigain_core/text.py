"""Tables and lists as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

NAMED = 5  # labels or files that a sentence names
# What makes a spreadsheet take a text for a formula (OWASP, CSV Injection), full-width forms too.
FORMULA_STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def csv_table(columns: Sequence[str], rows: Iterable[Iterable]) -> str:
    """Rows of texts and numbers; an apostrophe marks texts that would run as formulas."""
    return "".join(_line(row) for row in (columns, *(map(_inert, row) for row in rows)))


def _line(row: Iterable) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)  # quotes both, whatever ends the line
    return text.getvalue().removesuffix("\r\n") + "\n"


def _inert(cell):
    if not isinstance(cell, str) or not _is_formula(cell.lstrip("'")):
        return cell
    try:
        float(cell)
        return cell
    except ValueError:
        return "'" + cell


def cell_text(cell: str) -> str:
    """The text of a cell that `csv_table` wrote, or a spreadsheet that marks texts alike."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell.lstrip("'")) else cell


def _is_formula(text: str) -> bool:
    return text.startswith(FORMULA_STARTS)


def abbreviate(names: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")

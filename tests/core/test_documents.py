"""Figures and names that the documents give are those of the code."""

import re
from pathlib import Path

import pytest

from benchmarks.flops import automatic_rows, model_rows
from bigain_core.gate import PAYS_FROM

PACK = Path(__file__).resolve().parents[2]
TESTS = PACK / "tests"


def rows(text):
    """Cells of every line of a Markdown table."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_ceilings_in_the_readme_are_those_that_are_counted():
    counted = {row[0]: [row[3], row[5]] for row in model_rows()}
    given = {row[0]: row[1:] for row in rows((PACK / "README.md").read_text("utf-8")) if row}
    shared = counted.keys() & given.keys()
    assert len(shared) >= 7
    assert {name: given[name] for name in shared} == {name: counted[name] for name in shared}


def test_gains_on_the_page_of_auto_are_those_that_are_counted():
    given = rows((PACK / "web" / "docs" / "BiGainAuto.md").read_text("utf-8"))
    assert [row for row in given if row and " px" in row[0]] == list(automatic_rows())


def named_tests():
    text = (PACK / "docs" / "paper-to-code.md").read_text("utf-8")
    place = ""
    for name in re.findall(r"`([^`]*)`", text):
        if found := re.fullmatch(r"((?:core|host|server)/test_\w+\.py)(?:::(\w+))?", name):
            place = found[1]
            yield place, found[2]
        elif re.fullmatch(r"test_\w+", name):
            yield place, name


@pytest.mark.parametrize(("file", "name"), list(named_tests()))
def test_every_test_that_paper_to_code_names_exists(file, name):
    text = (TESTS / file).read_text("utf-8")
    assert name is None or f"def {name}(" in text


def test_no_row_of_paper_to_code_is_empty():
    for row in rows((PACK / "docs" / "paper-to-code.md").read_text("utf-8")):
        assert all(row), row


def test_thresholds_in_the_results_are_those_of_the_gate():
    given = {row[0]: row for row in rows((PACK / "docs" / "results.md").read_text("utf-8")) if row}
    for method, flops in PAYS_FROM["cpu"].items():
        threshold, runs = given[method.__name__][1:3]
        assert float(threshold) * 1e6 == flops
        assert max(map(float, runs.split(", "))) == float(threshold)

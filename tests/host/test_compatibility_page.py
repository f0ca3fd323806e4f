"""docs/compatibility.md has a row for all that is tested, and none that failed."""

from collections import defaultdict
from pathlib import Path

import comfyui_version
import pytest

from tests.host import (
    test_with_conditioning,
    test_with_guidance,
    test_with_patches,
    test_with_samplers,
    test_with_weights,
)
from tests.host.families import CASES
from tests.host.test_families import COVERED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
SCENARIOS = (
    test_with_conditioning.SCENARIOS,
    test_with_guidance.SCENARIOS,
    test_with_patches.SCENARIOS,
    test_with_samplers.SCENARIOS,
    test_with_weights.SCENARIOS,
)


@pytest.fixture(scope="module")
def tables():
    """{head of the table: {first cell of a row: its others by the heads of their columns}}"""
    found, head = defaultdict(dict), []
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells:
            head = []
        elif not head:
            head = cells
        elif not cells[0].startswith("-"):
            found[head[0]][cells[0]] = dict(zip(head[1:], cells[1:], strict=True))
    return found


def test_every_model_that_this_host_has_is_said_to_work(tables):
    version, rows = comfyui_version.__version__, tables["model"]
    columns = [head for head in rows[CASES[0].title] if head.startswith(f"{version}: ")]
    if not columns:
        pytest.skip(f"the page is not about ComfyUI {version}")
    for case in COVERED:
        cells = {rows[case.title][column] for column in columns}
        assert cells == ({""} if case.missing else {"yes"}), case.title


def test_every_scenario_has_a_row(tables):
    rows = {name for rows in tables.values() for name in rows}
    assert {name for scenarios in SCENARIOS for name in scenarios} <= rows


def test_nothing_on_the_page_failed(tables):
    rows = [row for table in tables.values() for row in table.items()]
    assert not [name for name, cells in rows if "no" in cells.values()]

"""docs/compatibility.md has a row for all that is tested, and none that failed."""

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
def rows():
    """{first cell: the others, with the heads of their columns}"""
    found, head = {}, []
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells:
            head = []
        elif not head:
            head = cells
        elif not cells[0].startswith("-"):
            found[cells[0]] = dict(zip(head[1:], cells[1:], strict=True))
    return found


def test_every_model_that_this_host_has_is_said_to_work(rows):
    version = comfyui_version.__version__
    columns = [head for head in rows[CASES[0].words] if head.startswith(f"{version}: ")]
    if not columns:
        pytest.skip(f"the page is not about ComfyUI {version}")
    for case in COVERED:
        cells = {rows[case.words][column] for column in columns}
        assert cells == ({""} if case.missing else {"yes"}), case.words


def test_every_scenario_has_a_row(rows):
    assert {name for table in SCENARIOS for name in table} <= rows.keys()


def test_nothing_on_the_page_failed(rows):
    assert not [name for name, cells in rows.items() if "no" in cells.values()]

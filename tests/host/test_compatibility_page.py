"""docs/compatibility.md has a row for all that is tested, and none that failed."""

from collections import defaultdict
from pathlib import Path

import comfyui_version
import pytest

from tests.host import (
    test_image_queries,
    test_newer_attention,
    test_with_conditioning,
    test_with_guidance,
    test_with_patches,
    test_with_samplers,
    test_with_sparse_attention,
    test_with_weights,
)
from tests.host.families import CASES
from tests.host.test_families import COVERED
from tests.host.test_newer_attention import OF_THE_HOST

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
SCENARIOS = (
    test_with_conditioning.SCENARIOS,
    test_with_guidance.SCENARIOS,
    test_with_patches.SCENARIOS,
    test_with_samplers.SCENARIOS,
    test_with_weights.SCENARIOS,
)
EMULATIONS = (test_image_queries, test_newer_attention, test_with_sparse_attention)


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


def test_what_newer_hosts_do_was_emulated_for_every_model(tables):
    """With the newest host, whose models are all there."""
    if any(case.missing for case in OF_THE_HOST):
        pytest.skip("an older ComfyUI")
    for case in OF_THE_HOST:
        assert tables["model"][case.title]["call of 0.40"] == "yes", case.title


@pytest.mark.parametrize("module", EMULATIONS, ids=lambda module: module.__name__)
def test_every_test_with_a_stand_in_has_a_row(tables, module):
    names = {name.removeprefix("test_") for name in vars(module) if name.startswith("test_")}
    rows = {name for rows in tables.values() for name in rows}
    assert names and {name.replace("_", " ") for name in names} <= rows


def test_every_scenario_has_a_row(tables):
    rows = {name for rows in tables.values() for name in rows}
    assert {name for scenarios in SCENARIOS for name in scenarios} <= rows


def test_nothing_on_the_page_failed(tables):
    rows = [row for table in tables.values() for row in table.items()]
    assert not [name for name, cells in rows if "no" in cells.values()]

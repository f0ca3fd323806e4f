"""The table in BiGain Report: what it shows of a report made by hand."""

import pytest

from tests.ui.conftest import ROUNDING

KIND = "BiGainReport"


def test_what_was_skipped_is_shown_with_its_reason(front_end):
    reason = "64 tokens, fewer than <i>100</i> asked for"
    front_end.show(KIND)
    front_end.page.evaluate(
        """reason => app.graph.nodes[0].onExecuted({bigain_report: [
            {summary: "S", layers: [], skipped: [{reason, calls: 7}, {reason: "other", layers: 2}]}
        ]})""",
        reason,
    )
    table = front_end.panel("report_view").get_by_role("table", name="Skipped")
    table.wait_for()
    rows = [row.get_by_role("cell").all_text_contents() for row in table.locator("tbody tr").all()]
    assert rows == [["7 calls", reason], ["2 layers", "other"]]


def test_a_long_table_is_scrolled_and_the_node_stays_as_large_as_it_was(front_end):
    front_end.show(KIND)
    (before,) = front_end.outlines().values()
    front_end.page.evaluate(
        """() => {
            const layer = {stage: "encoder", level: 1, method: "M", tokens: 64, queries: 16};
            const layers = Array.from({length: 70}, (_, k) =>
                ({...layer, layer: k, keys: 16, compressed: 1, calls: 1}));
            app.graph.nodes[0].onExecuted({bigain_report: [{summary: "S", layers}]});
        }"""
    )
    rows = front_end.panel("report_view").locator("tbody tr")
    rows.last.scroll_into_view_if_needed()
    assert rows.count() == 70 and rows.last.is_visible()
    assert list(front_end.outlines().values()) == [pytest.approx(before, abs=ROUNDING)]

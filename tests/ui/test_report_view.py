"""The table in BiGain Report: what it shows of a report made by hand."""

import pytest

from tests.ui.conftest import ROUNDING, one_front_end

KIND = "BiGainReport"
WIDTH = 420  # in which a line of the table is read without wrapping


@one_front_end
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


def show_gain(front_end):
    front_end.show(KIND)
    front_end.page.evaluate(
        """() => app.graph.nodes[0].onExecuted({bigain_report: [
            {headline: "1.31x fewer operations", badge: "3 of 7 layers", verdict: "good",
             summary: "A long story."}]})"""
    )
    return front_end.panel("report_view")


@one_front_end
def test_one_number_comes_first_with_a_badge(front_end):
    panel = show_gain(front_end)
    assert (
        panel.locator(".scroll > *").first.text_content() == "1.31x fewer operations3 of 7 layers"
    )
    assert panel.locator(".badge.good").text_content() == "3 of 7 layers"


def test_a_fresh_node_is_wide_enough_to_be_read(front_end):
    front_end.page.evaluate(
        """kind => { app.graph.clear(); app.graph.add(LiteGraph.createNode(kind)); }""", KIND
    )
    ((left, _, right, _),) = front_end.outlines().values()
    assert right - left >= WIDTH


def test_its_text_can_be_selected_and_the_node_stays_where_it_is(front_end):
    panel = show_gain(front_end)
    (before,) = front_end.outlines().values()
    box = panel.get_by_role("status").bounding_box()
    middle, mouse = box["y"] + box["height"] / 2, front_end.page.mouse
    mouse.move(box["x"] + 2, middle)
    mouse.down()
    mouse.move(box["x"] + 60, middle, steps=4)
    mouse.move(box["x"] + 150, middle)
    mouse.up()
    assert "1.31x" in front_end.page.evaluate("() => getSelection().toString()")
    assert list(front_end.outlines().values()) == [pytest.approx(before, abs=ROUNDING)]

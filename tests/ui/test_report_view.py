"""The table in BiGain Report says what its text says."""

import json
import re

import pytest

from tests.server.conftest import EXAMPLES
from tests.ui.conftest import ROUNDING

KIND = "BiGainReport"


@pytest.fixture(scope="module")
def reported(front_end, renderer):
    """The panel after a run of the example, and the text that the report gave."""
    front_end.load(json.loads((EXAMPLES / "bigain_classify_image.json").read_text("utf-8")))
    front_end.set("BiGainDiffusionClassifier", trials="1, 2")
    front_end.look_at(KIND)
    front_end.page.evaluate(
        """() => {
            const node = app.graph.nodes.find((node) => node.type === "BiGainReport");
            const before = node.onExecuted;
            node.onExecuted = function (output) {
                window.reported = output.text[0];
                return before?.apply(this, arguments);
            };
        }"""
    )
    assert front_end.run() == "success"
    return front_end.panel("report_view"), front_end.page.evaluate("() => reported")


def test_the_first_line_is_that_of_the_text(reported):
    panel, text = reported
    assert panel.get_by_role("status").text_content() == text.splitlines()[0]


def test_every_layer_of_the_text_has_a_row(reported):
    panel, text = reported
    layers = re.findall(
        r"layer (\d+) \((\w+), level (\d+)\): (.+), (\d+) tokens -> (\d+) queries, (\d+) keys, "
        r"in (\d+ of \d+) calls",
        text,
    )
    rows = [row.get_by_role("cell").all_text_contents() for row in panel.locator("tbody tr").all()]
    assert len(layers) == len(rows) == 2
    for (number, stage, level, method, tokens, queries, keys, calls), row in zip(
        layers, rows, strict=True
    ):
        share = f"({round(100 * int(queries) / int(tokens))} %)"
        shortened = [f"{queries} {share}", f"{keys} {share}"]
        assert row == [number, f"{stage}, level {level}", method, tokens, *shortened, calls]


def test_what_was_left_alone_is_shown_with_its_reason(front_end, renderer):
    reason = "64 tokens, fewer than <i>100</i> asked for"
    front_end.show(KIND)
    front_end.page.evaluate(
        """reason => app.graph.nodes[0].onExecuted({bigain_report: [
            {summary: "S", layers: [], left: [{reason, calls: 7}, {reason: "other", layers: 2}]}
        ]})""",
        reason,
    )
    table = front_end.panel("report_view").get_by_role("table", name="Left alone")
    table.wait_for()
    rows = [row.get_by_role("cell").all_text_contents() for row in table.locator("tbody tr").all()]
    assert rows == [["7 calls", reason], ["2 layers", "other"]]


def test_a_long_table_is_scrolled_and_the_node_stays_as_large_as_it_was(front_end, renderer):
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

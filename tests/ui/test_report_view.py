"""The table in BiGain Report: what it shows of a report made by hand."""

KIND = "BiGainReport"


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

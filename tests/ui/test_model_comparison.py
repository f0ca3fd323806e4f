"""The answer in BiGain Compare Models: what it shows of a result made by hand."""

KIND = "BiGainCompareModels"


def test_models_are_shown_as_text_with_their_intervals(front_end):
    name = "<img src=x onerror=alert(1)>.safetensors"
    front_end.show(KIND, (420, 620))
    front_end.page.evaluate(
        """name => app.graph.nodes[0].onExecuted({bigain_comparison: [
            {name: "connected model", behind: 0.02, interval: [0.01, 0.03], images: 8,
             best: false, worse: true},
            {name, behind: 0, interval: [0, 0], images: 64, best: true, worse: false},
            {name: "late", behind: 0.01, interval: null, images: 64, best: false, worse: false},
        ]})""",
        name,
    )
    panel = front_end.panel("model_comparison")
    headers = panel.get_by_role("rowheader")
    assert headers.all_text_contents() == ["connected model", name, "late"]
    assert panel.locator("img").count() == 0
    assert panel.get_by_text("+0.0200").is_visible() and panel.get_by_text("best", exact=True)
    assert panel.locator(".interval").count() == 2
    middles = [
        box["x"] + box["width"] / 2
        for box in (dot.bounding_box() for dot in panel.locator(".dot").all())
    ]
    spans = [span.bounding_box() for span in panel.locator(".interval").all()]
    assert abs(spans[0]["x"] + spans[0]["width"] / 2 - middles[0]) < 1.5
    assert middles[1] < middles[2] < middles[0]

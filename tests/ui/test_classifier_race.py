"""The race in BiGain Diffusion Classifier: what it shows of messages made by hand."""

KIND = "BiGainDiffusionClassifier"


def test_labels_are_text_whatever_they_hold(front_end):
    label = "<img src=x onerror=alert(1)><b>bold</b>"
    front_end.show(KIND)
    front_end.page.evaluate(
        """label => app.graph.nodes[0].onExecuted({bigain_race: [
            {rows: [{label, behind: 0, dropped: false}, {label: "other", behind: null,
             dropped: true}], prompts: 2, alive: 1, image: 0, images: 1, used: 4, saved: 2.5}
        ]})""",
        label,
    )
    panel = front_end.panel("race")
    assert panel.get_by_role("rowheader").first.text_content() == label
    assert panel.locator("img, b").count() == 0
    assert panel.get_by_text("ruled out").is_visible()
    assert panel.get_by_text("1 of 2 prompts left, 4 evaluations, 2.5 saved").is_visible()


def test_an_interrupted_race_says_so(front_end):
    front_end.show(KIND)
    front_end.page.evaluate(
        """() => {
            const detail = {node: String(app.graph.nodes[0].id), rows: [], prompts: 3, alive: 3,
                image: 0, images: 1, used: 9, left: 6, timed: 6, seconds: 60};
            app.api.dispatchEvent(new CustomEvent("bigain.race", {detail}));
        }"""
    )
    panel = front_end.panel("race")
    panel.get_by_text("3 of 3 prompts left, 9 evaluations, at most 1 min 0 s to go").wait_for()
    front_end.page.evaluate(
        "() => app.api.dispatchEvent(new CustomEvent('execution_interrupted', {detail: {}}))"
    )
    panel.get_by_text("stopped").wait_for()

"""The race in BiGain Diffusion Classifier: what it shows of messages made by hand."""

from tests.ui.conftest import one_front_end

KIND = "BiGainDiffusionClassifier"


@one_front_end
def test_labels_are_text_whatever_they_hold(front_end):
    label = "<img src=x onerror=alert(1)><b>bold</b>"
    front_end.show(KIND)
    front_end.page.evaluate(
        """label => app.graph.nodes[0].onExecuted({bigain_race: [
            {rows: [{label, behind: 0, dropped: false, chance: 0.978}, {label: "other",
             behind: null, dropped: true, chance: null}], prompts: 2, alive: 1, image: 0,
             images: 1, used: 4, saved: 2.5, none: false, alone: false}
        ], bigain_notes: [label]})""",
        label,
    )
    panel = front_end.panel("race")
    assert panel.get_by_role("rowheader").first.text_content() == label
    assert panel.get_by_role("status").text_content() == f"{label}, 97.8 % suresure"
    assert panel.locator(".warning").text_content() == label
    assert panel.locator("img, b").count() == 0
    assert panel.get_by_text("ruled out").is_visible()
    assert panel.get_by_text("1 of 2 prompts left, 4 evaluations, 2.5 saved").is_visible()


@one_front_end
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


@one_front_end
def test_an_answer_that_is_not_sure_is_amber(front_end):
    """In colour and in words, also where perhaps no prompt fits."""
    front_end.show(KIND)
    front_end.page.evaluate(
        """() => {
            const rows = (chance) => [{label: "cat", behind: 0, dropped: false, chance}];
            const race = {prompts: 2, alive: 1, images: 3, used: 4, saved: 2, alone: false};
            app.graph.nodes[0].onExecuted({bigain_notes: [], bigain_race: [
                {...race, image: 0, rows: rows(0.978), none: false},
                {...race, image: 1, rows: rows(0.398), none: false},
                {...race, image: 2, rows: rows(0.978), none: true},
            ]});
        }"""
    )
    panel = front_end.panel("race")
    badges = panel.locator(".badge")
    assert badges.all_text_contents() == ["sure", "not sure", "perhaps none of these"]
    read = "nodes => nodes.map((node) => getComputedStyle(node).backgroundColor)"
    green, *amber = badges.evaluate_all(read)
    assert green != amber[0] == amber[1]
    bars = panel.locator(".best .bar").evaluate_all(read)
    assert bars == [green, *amber]

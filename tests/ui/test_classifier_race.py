"""The race in BiGain Diffusion Classifier: live while it runs, and its end."""

import json
from itertools import pairwise

import pytest

from tests.server.conftest import EXAMPLES

KIND = "BiGainDiffusionClassifier"
SECONDS_BETWEEN = 0.25
DELAY = 0.5  # of a message on its way, in seconds
ROWS = 12
TRIALS, EVALUATIONS = "2, 6", 40 * 2 + 5 * 4
SEEDS = ["classic", "nodes 2"]
INPUT_SHOWS = "row-striped triangle"


@pytest.fixture(scope="module")
def raced(front_end, renderer):
    """The panel after a run of the example, and the messages that came before."""
    front_end.load(json.loads((EXAMPLES / "bigain_classify_image.json").read_text("utf-8")))
    front_end.look_at(KIND)
    front_end.page.evaluate(
        """() => {
            window.told = [];
            const note = ({detail}) => told.push({...detail, at: performance.now() / 1000});
            window.bigainNote ??= app.api.addEventListener("bigain.race", note) ?? note;
        }"""
    )
    # A seed of its own: what was run before would be taken from the cache, without a message.
    front_end.set(KIND, trials=TRIALS, trial_seed=SEEDS.index(renderer))
    assert front_end.run() == "success"
    return front_end.panel("race"), front_end.page.evaluate("() => told")


def test_it_is_told_how_the_prompts_stand_but_not_too_often(raced):
    _, told = raced
    assert told
    assert (len(told) - 1) * SECONDS_BETWEEN < told[-1]["at"] - told[0]["at"] + DELAY
    for earlier, later in pairwise(told):
        assert later["used"] >= earlier["used"]
        assert later["left"] < earlier["left"]


def test_messages_hold_few_of_many_prompts_best_first(raced):
    for message in raced[1]:
        rows = message["rows"]
        assert len(rows) == ROWS and message["prompts"] == 40
        places = [(row["dropped"], row["behind"]) for row in rows]
        assert places == sorted(places) and rows[0]["behind"] == 0


def test_the_end_shows_the_winner_and_greys_out_who_was_dropped(raced):
    panel, _ = raced
    rows = panel.locator("tr")
    assert rows.count() == ROWS + 1
    assert rows.first.get_by_role("rowheader").text_content() == INPUT_SHOWS
    assert [row.get_attribute("class") for row in rows.all()] == (
        ["best", *[""] * 4, *["dropped"] * (ROWS - 4)]
    )
    counted = f"5 of 40 prompts left, {EVALUATIONS} evaluations, {40 * 6 - EVALUATIONS} saved"
    assert panel.get_by_text(counted).is_visible()


def test_bars_get_shorter_down_to_those_that_were_dropped(raced):
    lengths = [bar.bounding_box()["width"] for bar in raced[0].locator(".bar").all()][:5]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > 2 * lengths[4]


def test_the_end_covers_no_other_node(raced, front_end):
    assert front_end.overlaps() == []


def test_labels_are_text_whatever_they_hold(front_end, renderer):
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


def test_an_interrupted_race_says_so(front_end, renderer):
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

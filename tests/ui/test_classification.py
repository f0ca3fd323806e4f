"""The example that classifies, run once: the race while it runs, its end, and the report."""

import json
from itertools import pairwise

import pytest

from benchmarks.drawings import CLASS_NAMES
from tests.server.conftest import EXAMPLES, FEW_TOKENS
from tests.ui.conftest import few_pairs, overlaps

pytestmark = few_pairs

SECONDS_BETWEEN = 0.25
DELAY = 0.5  # of a message on its way, in seconds
ROWS = 12
LABELS = CLASS_NAMES[::3]
PROMPTS = len(LABELS)
TRIALS, EVALUATIONS = "2, 12", PROMPTS * 2 + 5 * 10 + 2 * 12  # the best and no prompt


@pytest.fixture(scope="module")
def ran(front_end):
    """The messages during the run, what the report gave, and the best label by the host's node."""
    front_end.load(json.loads((EXAMPLES / "bigain_classify_image.json").read_text("utf-8")))
    front_end.page.evaluate(
        """() => {
            window.told = [];
            const note = ({detail}) => told.push({...detail, at: performance.now() / 1000});
            window.bigainNote ??= app.api.addEventListener("bigain.race", note) ?? note;
            const report = app.graph.nodes.find((node) => node.type === "BiGainReport");
            const before = report.onExecuted;
            report.onExecuted = function (output) {
                window.reported = output.bigain_report[0];
                return before?.apply(this, arguments);
            };
        }"""
    )
    # A seed of its own: what was run before would be taken from the cache, without a message.
    seed = front_end.place
    front_end.set("BiGainDiffusionClassifier", **{"preset.trials": TRIALS}, trial_seed=seed)
    front_end.set("BiGainDiTLoader", model_name=FEW_TOKENS)
    front_end.set("BiGainDiTLabels", labels="\n".join(LABELS))
    assert front_end.run() == "success"
    return front_end.page.evaluate(
        """() => [told, reported, app.graph.nodes.find(({title}) => title === "Best class")
            .widgets.map(({value}) => value)]"""
    )


@pytest.fixture
def told(ran):
    return ran[0]


@pytest.fixture
def race(ran, front_end):
    return seen(front_end, "BiGainDiffusionClassifier", "race")


@pytest.fixture
def report(ran, front_end):
    return seen(front_end, "BiGainReport", "report_view")


def seen(front_end, kind, panel):
    """A panel in the middle of the canvas; elsewhere some front ends hide it."""
    front_end.look_at(kind)
    front_end.panel(panel).wait_for()
    return front_end.panel(panel)


def test_it_is_told_how_the_prompts_stand_but_not_too_often(told):
    assert told
    assert (len(told) - 1) * SECONDS_BETWEEN < told[-1]["at"] - told[0]["at"] + DELAY
    for earlier, later in pairwise(told):
        assert later["used"] >= earlier["used"]
        assert later["left"] < earlier["left"]


def test_messages_hold_few_of_many_prompts_best_first(told):
    for message in told:
        rows = message["rows"]
        assert len(rows) == ROWS and message["prompts"] == PROMPTS
        places = [(row["dropped"], row["behind"]) for row in rows]
        assert places == sorted(places) and rows[0]["behind"] == 0


def test_the_end_shows_the_winner_and_greys_out_who_was_dropped(ran, race):
    rows = race.locator("tr")
    assert rows.count() == ROWS + 1
    assert rows.first.get_by_role("rowheader").text_content() in ran[2]
    assert [row.get_attribute("class") for row in rows.all()] == (
        ["best", *[""] * 4, *["dropped"] * (ROWS - 4)]
    )
    saved = PROMPTS * 12 - EVALUATIONS
    counted = f"5 of {PROMPTS} prompts left, {EVALUATIONS} evaluations, {saved} saved"
    assert race.get_by_text(counted).is_visible()


def test_bars_get_shorter_down_to_those_that_were_dropped(race):
    lengths = [bar.bounding_box()["width"] for bar in race.locator(".bar").all()][:5]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[4]


def test_the_end_covers_no_other_node(ran, front_end):
    assert overlaps(front_end.outlines()) == []


def test_the_report_begins_with_the_gain_and_says_the_rest_below(ran, report):
    _, data, _ = ran
    assert report.get_by_role("status").text_content() == data["headline"] + data["badge"]
    assert report.get_by_text(data["summary"]).is_visible()


def test_every_layer_of_the_report_has_a_row(ran, report):
    rows = [row.get_by_role("cell").all_text_contents() for row in report.locator("tbody tr").all()]
    layers = ran[1]["layers"]
    assert len(layers) == len(rows) == 2
    for layer, row in zip(layers, rows, strict=True):
        tokens, queries, keys = (layer[name] for name in ("tokens", "queries", "keys"))
        shortened = [f"{count} ({round(100 * count / tokens)} %)" for count in (queries, keys)]
        where = f"{layer['stage']}, level {layer['level']}"
        calls = f"{layer['compressed']} of {layer['calls']}"
        assert row == [str(layer["layer"]), where, layer["method"], str(tokens), *shortened, calls]

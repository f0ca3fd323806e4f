"""Choices whose options bring inputs of their own, in the browser."""

import json

import pytest

from tests.server.conftest import EXAMPLES

MERGING, SHRINKING = "BiGainTokenMerging", "BiGainKVDownsampling"
SCORES = ["scorer", "padding", "metric"]
OWN = {
    MERGING: {
        "SiTo": ["metric", "random_seed"],
        "adaptive block merge": [*SCORES, "merge_mode", "proportional", "aggregate"],
    },
    SHRINKING: {
        "ToDo": [],
        "IE-KVD": ["alpha_start", "alpha_end"],
        "select low per square": [*SCORES, "blend"],
    },
}


@pytest.fixture(params=[(kind, method) for kind, found in OWN.items() for method in found])
def chosen(front_end, request):
    """A fresh node in which a method was chosen after another value was set."""
    kind, method = request.param
    front_end.show(kind)
    front_end.set(kind, **{"factor": 4, "ratio": 0.25, "blocks": "1"})
    front_end.set(kind, method=method)
    return kind, method


def names(front_end, kind):
    return front_end.page.evaluate(
        """kind => app.graph.nodes.find((node) => node.type === kind)
            .widgets.map(({name}) => name)""",
        kind,
    )


def test_a_method_has_its_own_inputs_right_below_it(front_end, chosen):
    kind, method = chosen
    shown = names(front_end, kind)
    own = [f"method.{name}" for name in OWN[kind][method]]
    assert [name for name in shown if name.startswith("method.")] == own
    place = shown.index("method") + 1
    assert shown[place : place + len(own)] == own and shown[place + len(own)] == "placement"


def test_other_values_stay(front_end, chosen):
    kind, _ = chosen
    strength = {MERGING: ("ratio", 0.25), SHRINKING: ("factor", 4)}[kind]
    assert front_end.widget(kind, strength[0]) == strength[1]
    assert front_end.widget(kind, "blocks") == "1"


def test_own_values_survive_saving_and_loading(front_end):
    front_end.show(SHRINKING)
    front_end.set(SHRINKING, method="select low per square")
    front_end.set(SHRINKING, **{"method.blend": 0.25, "level_2_factor": 3})
    saved = front_end.saved()
    front_end.show(MERGING)
    front_end.load(saved)
    values = {name: front_end.widget(SHRINKING, name) for name in names(front_end, SHRINKING)}
    assert values["method"] == "select low per square" and values["method.blend"] == 0.25
    assert values["level_2_factor"] == 3 and values["placement"] == "everywhere"


def test_the_curve_is_cut_off_with_a_method_that_has_no_alpha(front_end):
    """And the prompt has it only with the one that does."""
    front_end.load(json.loads((EXAMPLES / "bigain_hybrid_and_presets.json").read_text("utf-8")))
    queued = "async () => Object.values((await app.graphToPrompt()).output)"

    def inputs():
        nodes = front_end.page.evaluate(queued)
        return next(node["inputs"] for node in nodes if node["class_type"] == SHRINKING)

    assert isinstance(inputs()["method.alpha"], list)
    front_end.set(SHRINKING, method="average")
    assert inputs()["method"] == "average" and not [n for n in inputs() if "method." in n]

"""Choices whose options bring inputs of their own, in the browser."""

import json

import pytest

from tests.server.conftest import EXAMPLES
from tests.ui.conftest import one_renderer

MERGING, SHRINKING = "BiGainTokenMerging", "BiGainKVDownsampling"
SCORES = ["scorer", "scorer.padding", "metric"]
MODE = ["merge_mode", "merge_mode.blend_rotary"]
OWN = {
    MERGING: {
        "SiTo": ["metric", "random_seed"],
        "adaptive block merge": [*SCORES, *MODE, "proportional", "aggregate"],
    },
    SHRINKING: {
        "ToDo": ["proportional", "frames"],
        "IE-KVD": ["alpha_start", "alpha_end", "proportional", "blend_rotary", "frames"],
        "select low per square": [*SCORES, "blend", "proportional", "blend_rotary"],
        "key merging": ["blend_rotary", "frames"],
    },
}
SET_BEFORE = {
    MERGING: {"ratio": 0.25, "blocks": "1"},
    SHRINKING: {"factor": 4, "blocks": "1"},
}


def names(front_end, kind):
    return front_end.page.evaluate(
        """kind => app.graph.nodes.find((node) => node.type === kind)
            .widgets.map(({name}) => name)""",
        kind,
    )


@one_renderer
@pytest.mark.parametrize("kind", OWN)
def test_a_method_has_its_own_inputs_right_below_it_and_other_values_stay(front_end, kind):
    front_end.show(kind)
    front_end.set(kind, **SET_BEFORE[kind])
    for method, inputs in OWN[kind].items():
        front_end.set(kind, method=method)
        shown = names(front_end, kind)
        own = [f"method.{name}" for name in inputs]
        assert [name for name in shown if name.startswith("method.")] == own
        place = shown.index("method") + 1
        assert shown[place : place + len(own)] == own and shown[place + len(own)] == "placement"
        for name, value in SET_BEFORE[kind].items():
            assert front_end.widget(kind, name) == value


@one_renderer
def test_a_choice_of_a_method_has_its_own_inputs_right_below_it(front_end):
    front_end.show(MERGING)
    front_end.set(MERGING, method="cached assignment")
    for choice, with_own, own, without in (
        ("method.cache_scope", "interval", "cache_interval", "network"),
        ("method.merge_mode", "mlerp", "blend_rotary", "prune"),
        ("method.scorer", "laplacian-l2", "padding", "variance"),
    ):
        before = names(front_end, MERGING)
        for value, shown in ((without, []), (with_own, [f"{choice}.{own}"]), (without, [])):
            front_end.set(MERGING, **{choice: value})
            now = names(front_end, MERGING)
            assert [name for name in now if name.startswith(f"{choice}.")] == shown
            place = now.index(choice) + 1
            assert now[place : place + len(shown)] == shown
            kept = [name for name in before if not name.startswith(f"{choice}.")]
            assert [name for name in now if name not in shown] == kept


@one_renderer
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


@one_renderer
def test_the_curve_is_cut_off_with_a_method_that_has_no_alpha(front_end):
    """And the prompt has it only with the one that does."""
    front_end.load(json.loads((EXAMPLES / "bigain_hybrid_and_presets.json").read_text("utf-8")))
    queued = "async () => Object.values((await app.graphToPrompt()).output)"

    def inputs():
        nodes = front_end.page.evaluate(queued)
        return next(node["inputs"] for node in nodes if node["class_type"] == SHRINKING)

    assert isinstance(inputs()["method.alpha"], list)
    front_end.set(SHRINKING, method="average")
    assert inputs()["method"] == "average" and "method.alpha" not in inputs()


VISIBLE = """() => {
    const [node] = app.graph.nodes;
    return node.widgets.filter((widget) => node.isWidgetVisible(widget)).map(({name}) => name);
}"""
MARKED = "() => app.graph.nodes[0].widgets.some((widget) => widget.options.advanced)"


@pytest.mark.parametrize("method", ["L-GTM", "SiTo"])
def test_advanced_inputs_are_folded_until_they_are_asked_for(front_end, method):
    """Nodes 2.0 reads the same mark. Methods bring advanced inputs of their own."""
    front_end.show(MERGING, size=[300, 40])
    front_end.set(MERGING, method=method)
    (folded,) = front_end.outlines().values()
    if not front_end.page.evaluate(MARKED):  # an older host marks none
        assert front_end.page.evaluate(VISIBLE) == names(front_end, MERGING)
        return
    if front_end.renderer == "classic":
        assert front_end.page.evaluate(VISIBLE) == ["ratio", "method", "placement"]
        front_end.page.evaluate("() => app.graph.nodes[0].toggleAdvanced()")
        assert front_end.page.evaluate(VISIBLE) == names(front_end, MERGING)
    else:
        assert front_end.page.get_by_label("blocks").count() == 0
        front_end.page.get_by_test_id("advanced-inputs-button").click()
    (unfolded,) = front_end.outlines().values()
    assert unfolded[3] - unfolded[1] > folded[3] - folded[1] + 100

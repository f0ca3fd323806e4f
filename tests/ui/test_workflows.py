"""The example workflows in the browser: they open, and saving them changes nothing."""

import json

import pytest

from tests.server.conftest import EXAMPLES
from tests.ui.conftest import ROUNDING, classic_that_folds, few_pairs, one_front_end, overlaps

WORKFLOWS = sorted(EXAMPLES.glob("*.json"))
LAYOUT = ("pos", "size", "order")  # the host's business
PREVIEW = "PreviewAny"  # of the host as well; in some front ends its switch is lost by loading


def meaning(saved):
    """What a saved workflow says, without where it is drawn."""
    nodes = {
        node["id"]: {key: value for key, value in node.items() if key not in LAYOUT}
        for node in saved["nodes"]
        if node["type"] != PREVIEW
    }
    return nodes, sorted(map(tuple, saved["links"]))


@pytest.fixture(scope="module", params=WORKFLOWS, ids=lambda path: path.stem)
def shipped(request):
    return json.loads(request.param.read_text("utf-8"))


@pytest.fixture(scope="module")
def saved(front_end, shipped):
    """An example as it is saved again once it is open, which it still is then."""
    front_end.load(shipped)
    front_end.page.wait_for_function("() => app.graph.nodes.every((node) => node.size[1] > 0)")
    return front_end.saved()


def outside(group, outlines):
    """Numbers of the nodes that begin in a group and end beyond it."""
    x, y, width, height = group["bounding"]
    return [
        number
        for number, (left, top, right, bottom) in outlines.items()
        if x <= left < x + width
        and y <= top < y + height
        and (right > x + width + ROUNDING or bottom > y + height + ROUNDING)
    ]


@few_pairs
def test_no_node_covers_another_or_leaves_its_group(front_end, shipped, saved):
    outlines = front_end.outlines()
    assert overlaps(outlines) == []
    assert outlines.keys() == {node["id"] for node in shipped["nodes"]}
    assert {g["title"]: outside(g, outlines) for g in shipped["groups"]} == {
        g["title"]: [] for g in shipped["groups"]
    }


@classic_that_folds
def test_our_nodes_have_room_for_what_they_show(front_end, shipped, saved):
    """A node that has to grow when it is opened may cover its neighbours.

    Nodes 2.0 have heights of their own, which change from version to version. Front ends before
    them fold no inputs: their nodes grow, and the test above says that they cover nothing.
    """
    shown = {node["id"]: node["size"][1] for node in saved["nodes"]}
    for node in shipped["nodes"]:
        if node["type"].startswith("BiGain"):
            assert shown[node["id"]] <= node["size"][1] + ROUNDING, node["type"]


@classic_that_folds
def test_saving_and_loading_again_changes_nothing(front_end, shipped, saved):
    """Where neither front end nor renderer makes a difference: in one where they are open."""
    front_end.load(saved)
    assert meaning(front_end.saved()) == meaning(saved)
    values = {node["id"]: node.get("widgets_values") or [] for node in saved["nodes"]}
    for node in shipped["nodes"]:
        given = node.get("widgets_values") or []
        assert values[node["id"]][: len(given)] == given, node["type"]


@one_front_end
def test_a_curve_that_was_drawn_survives_a_reload_of_the_page(front_end):
    front_end.show("BiGainAlphaSchedule")
    front_end.panel("alpha_editor").get_by_role("combobox").select_option("0.5 to 1")
    saved = front_end.saved()
    front_end.open()
    front_end.load(saved)
    assert meaning(front_end.saved()) == meaning(saved)
    assert front_end.widget("BiGainAlphaSchedule", "curve") == "999: 0.5\n0: 1"

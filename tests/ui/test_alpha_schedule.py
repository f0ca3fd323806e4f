"""The curve editor of BiGain Alpha Schedule: what it shows and what it does to the text."""

import pytest

from tests.ui.conftest import one_front_end, one_renderer, one_renderer_with_values_of_its_own

KIND = "BiGainAlphaSchedule"


@pytest.fixture
def editor(front_end):
    front_end.show(KIND)
    editor = front_end.panel("alpha_editor")
    editor.get_by_role("slider").first.wait_for()
    return editor


@pytest.fixture
def curve(front_end):
    """The saved text, as points."""

    def read():
        text = front_end.widget(KIND, "curve")
        return {float(t): float(a) for t, a in (line.split(":") for line in text.splitlines())}

    return read


def write(front_end, text):
    """Type into the text as a user does."""
    front_end.page.locator("textarea").last.fill(text)


def drag(page, handle, right, down):
    handle.hover()  # waits until it stands still and nothing lies over it
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.down()
    page.mouse.move(x + right / 2, y + down / 2)
    page.mouse.move(x + right, y + down)
    page.mouse.up()


def test_it_shows_the_curve_of_the_text_and_is_no_part_of_what_is_saved(editor, front_end):
    places = [p.get_attribute("aria-valuetext") for p in editor.get_by_role("slider").all()]
    assert places == ["timestep 999, alpha 0.8", "timestep 0, alpha 1.2"]
    for text in ("extrapolation", "interpolation", "nearest", "average"):
        assert editor.get_by_text(text).is_visible()
    (node,) = front_end.saved()["nodes"]
    assert node["widgets_values"] == ["999: 0.8\n0: 1.2"]
    assert [slot["name"] for slot in node["inputs"]] == ["curve"]


def test_typing_moves_the_points(editor, front_end):
    write(front_end, "999: 0.5, 500: 1, 0: 1.1")
    editor.get_by_role("slider").nth(2).wait_for()
    assert editor.get_by_role("slider").nth(1).get_attribute("aria-valuetext") == (
        "timestep 500, alpha 1"
    )


@one_front_end
def test_text_that_is_no_curve_stays_as_it_is(editor, front_end):
    write(front_end, "999: x")
    editor.get_by_text("This text is no curve").wait_for()
    editor.locator("svg").dblclick()
    assert front_end.widget(KIND, "curve") == "999: x"
    editor.get_by_role("combobox").select_option("0.5 to 1")
    assert front_end.widget(KIND, "curve") == "999: 0.5\n0: 1"


def test_dragging_a_point_changes_the_text_and_not_the_node(editor, front_end, curve):
    before = front_end.saved()["nodes"][0]["pos"]
    drag(front_end.page, editor.get_by_role("slider").first, 60, 30)
    moved = curve()
    assert len(moved) == 2 and moved[0] == 1.2
    (timestep,) = set(moved) - {0}
    assert 700 < timestep < 950 and moved[timestep] < 0.7
    assert front_end.saved()["nodes"][0]["pos"] == before


@one_front_end
def test_a_point_cannot_pass_its_neighbour(editor, front_end, curve):
    drag(front_end.page, editor.get_by_role("slider").first, 1000, 0)
    assert min(curve()) == 0 and max(curve()) == 1


@one_front_end
def test_points_are_added_on_the_line_and_removed(editor, front_end, curve):
    editor.get_by_role("button", name="Add point").click()
    assert curve() == {999: 0.8, 500: 1.0, 0: 1.2}
    editor.get_by_role("slider").nth(1).press("Delete")
    assert curve() == {999: 0.8, 0: 1.2}
    assert len(front_end.saved()["nodes"]) == 1


@one_front_end
def test_the_keyboard_moves_a_point_and_keeps_it(editor, front_end, curve):
    handle = editor.get_by_role("slider").first
    handle.focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowRight", "Shift+ArrowDown"):
        front_end.page.keyboard.press(key)
    assert curve() == {998: 0.72, 0: 1.2}


def test_a_linked_curve_cannot_be_edited(editor, front_end):
    front_end.page.evaluate(
        """() => {
            const source = LiteGraph.createNode("BiGainReport");
            app.graph.add(source);
            const node = app.graph.nodes.find((node) => node.type === "BiGainAlphaSchedule");
            source.connect(0, node, "curve");
        }"""
    )
    editor.get_by_text("comes from another node").wait_for()
    assert editor.get_by_role("slider").count() == 0


PROMOTE = """async (panel) => {
    const {subgraph, node} = app.graph.convertToSubgraph(new Set(app.graph.nodes));
    const [inner] = subgraph.nodes;
    node.properties.proxyWidgets = ["curve", ...panel].map((name) => [String(inner.id), name]);
    await app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize())));
    const [around] = app.graph.nodes;
    around.widgets.find(({name}) => name.endsWith("curve")).value = "999: 0.5\\n0: 1";
}"""
QUEUED = """async () =>
    Object.values((await app.graphToPrompt()).output).map(({inputs}) => inputs.curve)"""


def promoted(front_end, panel=()):
    """The editor in a subgraph whose node has the text, and the panel where the front end can."""
    front_end.show(KIND)
    front_end.page.evaluate(PROMOTE, list(panel))
    front_end.open_subgraph()
    editor = front_end.panel("alpha_editor")
    editor.get_by_role("slider").first.wait_for()
    return editor


@one_renderer
@pytest.mark.parametrize("panel", [[], ["alpha_editor"]], ids=["", "panel"])
def test_a_promoted_curve_is_the_current_one_and_edited_where_it_is_kept(front_end, panel):
    editor = promoted(front_end, panel)
    places = [p.get_attribute("aria-valuetext") for p in editor.get_by_role("slider").all()]
    assert places == ["timestep 999, alpha 0.5", "timestep 0, alpha 1"]
    assert editor.get_by_role("status").text_content() == ""
    assert front_end.page.evaluate(QUEUED) == ["999: 0.5\n0: 1"]
    editor.get_by_role("combobox").select_option("0.2 to 0.8")
    editor.get_by_role("button", name="Add point").click()
    assert editor.get_by_role("slider").count() == 3
    assert front_end.page.evaluate(QUEUED) == ["999: 0.2\n500: 0.5\n0: 0.8"]


@one_renderer_with_values_of_its_own
def test_of_a_subgraph_that_is_there_twice_no_curve_is_the_current_one(front_end):
    editor = promoted(front_end)
    front_end.page.evaluate(
        """() => {
            const root = app.canvas.graph.rootGraph;
            app.canvas.setGraph(root);
            root.add(LiteGraph.createNode(root.nodes[0].type));
        }"""
    )
    editor.wait_for(state="hidden")
    front_end.open_subgraph()
    editor.get_by_text("comes from another node").wait_for()
    assert editor.get_by_role("slider").count() == 0

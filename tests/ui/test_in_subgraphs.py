"""Panels of nodes in a subgraph: they show their answer when it is opened, whatever is promoted."""

import pytest

from tests.ui.conftest import one_renderer

RACE = {
    "rows": [{"label": "a cat", "behind": 0, "dropped": False, "chance": 0.978}],
    "prompts": 2, "alive": 1, "image": 0, "images": 1, "used": 4, "saved": 2, "none": False,
    "alone": False,
}  # fmt: skip
MODEL = {"behind": 0, "interval": [0, 0], "images": 8, "best": True, "worse": False}
EVALUATION = {
    "headline": "6 tagged", "file": "tags.csv", "complete": True, "rows": [], "unsure": 0,
    "images": 0, "text": "",
}  # fmt: skip
FILE = {"filename": "none.png", "subfolder": "", "type": "temp"}
FOUND = {"headline": "1.3x fewer operations", "badge": "3 of 7 layers", "verdict": "good"}
# Kind of node: its panel, the message of the server, what that says and what is seen of it.
ANSWERS = {
    "BiGainAuto": ("auto_result", "bigain.auto", FOUND | {"note": "saved"}, FOUND["headline"]),
    "BiGainReport": (
        "report_view", "executed", {"bigain_report": [FOUND | {"summary": "S"}]}, FOUND["headline"]
    ),
    "BiGainDiffusionClassifier": (
        "race", "executed", {"bigain_race": [RACE], "bigain_notes": []}, "a cat, 97.8 % sure"
    ),
    "BiGainEvaluate": (
        "evaluation_result", "executed", {"bigain_evaluation": [EVALUATION]}, "6 tagged"
    ),
    "BiGainRankImages": (
        "ranked_images",
        "executed",
        {"bigain_ranked": [{"rows": [], "images": 0, "note": "a tie"}]},
        "a tie",
    ),
    "BiGainCompareModels": (
        "model_comparison", "executed", {"bigain_comparison": [MODEL | {"name": "m"}]}, "best: m"
    ),
    "BiGainBestOfN": (
        "best_of_n",
        "executed",
        {"bigain_best": [{"rows": [{"seed": "7", "dropped": ""}], "saved": 0.4}]},
        "best: seed 7",
    ),
}  # fmt: skip
PANELS = [panel for panel, *_ in ANSWERS.values()]
# A node of each kind in one subgraph, whose node has the widgets of all of them but those left out.
WRAP = """async ([kinds, leftOut]) => {
    for (const kind of kinds) app.graph.add(LiteGraph.createNode(kind));
    const {subgraph, node} = app.graph.convertToSubgraph(new Set(app.graph.nodes));
    node.properties.proxyWidgets = subgraph.nodes.flatMap(({id, widgets}) =>
        widgets.filter(({name}) => !leftOut.includes(name)).map(({name}) => [String(id), name]));
    await app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize())));
}"""
SAY = """answers => {
    const [around] = app.graph.nodes;
    for (const {id, type} of around.subgraph.nodes) {
        const [, message, said] = answers[type];
        const node = `${around.id}:${id}`;
        const executed = {node, display_node: node, output: said, prompt_id: "made by hand"};
        app.api.dispatchCustomEvent(message, message === "executed" ? executed : {node, ...said});
    }
}"""


@one_renderer
@pytest.mark.parametrize("left_out", [PANELS, []], ids=["widgets", "panels, too"])
def test_what_was_told_before_it_was_opened_is_shown(front_end, left_out):
    """Some front ends show a panel that is asked for at the node of the subgraph, others do not."""
    page, (first, *others) = front_end.page, ANSWERS
    front_end.show(first)
    page.evaluate(WRAP, [others, left_out])
    assert page.evaluate("() => app.graph.nodes[0].widgets.length") > 30
    page.evaluate(SAY, ANSWERS)
    front_end.open_subgraph()
    for kind, (panel, *_, words) in ANSWERS.items():
        front_end.look_at(kind)
        front_end.panel(panel).get_by_text(words).wait_for()

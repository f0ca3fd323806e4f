"""The saved workflows: complete, tidy, and found by ComfyUI's template browser as intended."""

import itertools
import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "example_workflows"
WORKFLOWS = sorted(EXAMPLES.glob("*.json"))
TITLE_HEIGHT = 30
NOTES = ("Note", "MarkdownNote")


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request):
    return json.loads(request.param.read_text("ascii"))


def outline(node):
    """(left, top, right, bottom) with the title bar."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def test_there_are_examples():
    assert WORKFLOWS


def test_links_and_slots_agree(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, out, target, into, kind in workflow["links"]:
        assert number in nodes[source]["outputs"][out]["links"]
        assert nodes[target]["inputs"][into]["link"] == number
        assert {kind, nodes[target]["inputs"][into]["type"]} <= {
            nodes[source]["outputs"][out]["type"],
            "*",
        }
    links = {link[0] for link in workflow["links"]}
    inputs = [slot["link"] for node in workflow["nodes"] for slot in node["inputs"]]
    outputs = [slot["links"] for node in workflow["nodes"] for slot in node["outputs"]]
    assert sorted(number for number in inputs if number is not None) == sorted(links)
    assert sorted(itertools.chain(*(numbers or [] for numbers in outputs))) == sorted(links)


def test_data_flows_from_left_to_right(workflow):
    column = {node["id"]: node["pos"][0] for node in workflow["nodes"]}
    assert all(column[source] <= column[target] for _, source, _, target, *_ in workflow["links"])


def test_nodes_do_not_overlap(workflow):
    for one, other in itertools.combinations(workflow["nodes"], 2):
        a, b = outline(one), outline(other)
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one["type"], other["type"])


def test_every_node_but_the_note_lies_in_one_titled_group(workflow):
    assert all(group["title"] for group in workflow["groups"])
    for node in workflow["nodes"]:
        x0, y0, x1, y1 = outline(node)
        around = [
            group["title"]
            for group in workflow["groups"]
            for x, y, width, height in [group["bounding"]]
            if x <= x0 and y <= y0 and x1 <= x + width and y1 <= y + height
        ]
        assert len(around) == (0 if node["type"] in NOTES else 1), node["type"]


def test_it_says_what_it_does(workflow):
    (note,) = [node for node in workflow["nodes"] if node["type"] in NOTES]
    assert note["widgets_values"][0]


def test_our_nodes_name_the_pack_so_that_it_can_be_installed(workflow):
    for node in workflow["nodes"]:
        if node["type"].startswith("BiGain"):
            assert node["properties"]["cnr_id"] == "bigain"


def test_input_pictures_are_no_thumbnails():
    """ComfyUI takes a picture with the name of a workflow as its thumbnail."""
    used = set()
    for path in WORKFLOWS:
        nodes = json.loads(path.read_text("ascii"))["nodes"]
        used |= {n["widgets_values"][0] for n in nodes if n["type"] == "LoadImage"}
    assert used == {path.name for path in EXAMPLES.glob("*_input.png")}
    assert {Path(name).stem for name in used}.isdisjoint(path.stem for path in WORKFLOWS)

"""The saved workflows: complete, tidy, and found by ComfyUI's template browser as intended."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.example_images import QUALITY, SIZE, THUMBNAILS

EXAMPLES = Path(__file__).resolve().parents[2] / "example_workflows"
WORKFLOWS = sorted(EXAMPLES.glob("*.json"))
TITLE_HEIGHT = 30
NOTES = ("Note", "MarkdownNote")
OF_THE_HOST = "example.png"  # in the input folder of every ComfyUI
LARGEST_THUMBNAIL = 30_000  # bytes
QUICKLY_DRAWN = (  # the others show results of many network calls
    "bigain_benchmark",
    "bigain_classify_with_dit_xl_2",
    "bigain_faster_hires_sdxl",
    "bigain_ltx_2_video_with_sound",
    "bigain_minimax_h3_video",
    "bigain_rank_prompts_for_photo",
    "bigain_sure_or_not",
)


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request):
    return json.loads(request.param.read_text("ascii"))


def outline(node):
    """(left, top, right, bottom) with the title bar."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


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


def test_no_workflow_waits_for_a_file_that_is_copied_by_hand():
    """What is loaded comes with ComfyUI, or out of BiGain Sample Images."""
    for path in WORKFLOWS:
        nodes = json.loads(path.read_text("ascii"))["nodes"]
        loaded = {node["widgets_values"][0] for node in nodes if node["type"] == "LoadImage"}
        assert loaded <= {OF_THE_HOST}
        for node in nodes:
            if node["type"] == "BiGainEvaluate":
                (folder,) = [slot for slot in node["inputs"] if slot["name"] == "folder"]
                assert folder["link"] is not None
    assert not list(EXAMPLES.glob("*_input*"))


def test_every_workflow_has_a_small_thumbnail():
    thumbnails = {path.stem: path for path in EXAMPLES.glob("*.jpg")}
    assert thumbnails.keys() == {path.stem for path in WORKFLOWS} == THUMBNAILS.keys()
    for path in thumbnails.values():
        assert path.stat().st_size <= LARGEST_THUMBNAIL, path.name
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == (SIZE, "RGB", "JPEG")


@pytest.mark.parametrize("name", QUICKLY_DRAWN)
def test_a_thumbnail_is_what_the_script_draws(name):
    """But for another version of the font or of the encoder."""
    file = io.BytesIO()
    THUMBNAILS[name]().save(file, "JPEG", quality=QUALITY)
    drawn = np.asarray(Image.open(file)).astype(int)
    committed = np.asarray(Image.open(EXAMPLES / f"{name}.jpg")).astype(int)
    assert abs(committed - drawn).mean() < 1

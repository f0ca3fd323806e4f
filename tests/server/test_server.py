"""What a ComfyUI with this pack offers before anything is queued."""

import re

import pytest

from tests.server.conftest import EXAMPLES, FOLDER, PACK

PRIMARY = {  # what a bypassed node passes on, or what it is about
    "BiGainTokenMerging": "model",
    "BiGainKVDownsampling": "model",
    "BiGainAlphaSchedule": "curve",
    "BiGainAuto": "model",
    "BiGainReport": "model",
    "BiGainPrompts": "clip",
    "BiGainDiffusionClassifier": "model",
    "BiGainDiTLoader": "model_name",
    "BiGainDiTLabels": "model",
    "BiGainGate": "value",
    "BiGainEvaluate": "model",
    "BiGainEvidenceMap": "model",
    "BiGainRankImages": "model",
    "BiGainTokenMap": "model",
    "BiGainBenchmark": "model",
    "BiGainCompare": "models",
    "BiGainSampleImages": "images",
    "BiGainCompareModels": "model",
    "BiGainBestOfN": "model",
    "BiGainTagFolder": "model",
}


@pytest.fixture(scope="module")
def ours(object_info):
    return {
        name: info
        for name, info in object_info.items()
        if info["python_module"] == f"custom_nodes.{FOLDER}"
    }


def inputs(info):
    """(name, options) in the order of the schema."""
    shown = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    return [(name, (spec[1:] or [{}])[0]) for name, spec in shown.items()]


def test_the_server_starts_without_a_complaint(server):
    assert f"custom_nodes/{FOLDER}" in server.boot_log.replace("\\", "/")
    for complaint in ("Traceback", "IMPORT FAILED", "Cannot import"):
        assert complaint not in server.boot_log


def test_exactly_our_nodes_are_there(ours):
    assert set(ours) == set(PRIMARY)
    menus = {info["category"] for info in ours.values()}
    assert menus == {f"BiGain/{part}" for part in ("Speed", "Recognise", "Measure")}


@pytest.mark.parametrize("node", PRIMARY)
def test_the_first_input_is_the_primary_one(ours, node):
    assert inputs(ours[node])[0][0] == PRIMARY[node]


@pytest.mark.parametrize("node", PRIMARY)
def test_everything_is_explained(ours, node):
    info = ours[node]
    assert info["description"]
    assert [name for name, options in inputs(info) if not options.get("tooltip")] == []
    assert len(info["output_tooltips"]) == len(info["output"]) and all(info["output_tooltips"])


def test_every_template_is_offered(server):
    offered = server.get("/workflow_templates").json()[FOLDER]
    assert set(offered) == {path.stem for path in EXAMPLES.glob("*.json")}


@pytest.mark.parametrize("node", PRIMARY)
def test_help_is_served_with_its_images(server, node):
    page = server.get(f"/extensions/{FOLDER}/docs/{node}.md").text
    assert page.startswith("# ")
    for image in re.findall(r"!\[.*\]\((.*)\)", page):  # the host looks for it beside the page
        answer = server.get(f"/extensions/{FOLDER}/docs/{image}")
        assert answer.headers["content-type"] == "image/png"
        assert answer.content == (PACK / "web" / "docs" / image).read_bytes()


@pytest.mark.parametrize("language", ["de", "fr", "ja", "zh"])
def test_translations_are_served(server, ours, language):
    nodes = server.get("/i18n").json()[language]["nodeDefs"]
    assert set(nodes) == set(ours)
    assert nodes["BiGainReport"]["display_name"] != ours["BiGainReport"]["display_name"]

"""A labelled folder evaluated, a decision explained and images ranked, from a saved workflow."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.data import CLASS_NAMES, held_out_shapes

WORKFLOW = Path(__file__).parent / "workflows" / "evaluate_and_explain.json"
LABELS = ("plain disc", "checkered square", "row-striped triangle")


@pytest.fixture(scope="module")
def base(server):
    """The folder of the server, with two drawings of each label in its input folder."""
    base = server.log_file.parent
    drawn = held_out_shapes(60)
    for number, (pixels, k) in enumerate(zip(drawn.pixels, drawn.labels.tolist(), strict=True)):
        if CLASS_NAMES[k] in LABELS:
            path = base / "input" / "drawn" / CLASS_NAMES[k] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            levels = ((pixels.movedim(0, -1) / 2 + 0.5) * 255).round()
            image = Image.fromarray(levels.numpy().astype(np.uint8))
            image.save(path)
            image.save(base / "input" / f"{CLASS_NAMES[k].split()[1]}.png")
    return base


@pytest.fixture(scope="module")
def prompt(base, converted):
    def make(**changes):
        return converted(json.loads(WORKFLOW.read_text("ascii")), **changes)

    return make


@pytest.fixture(scope="module")
def done(server, prompt):
    return server.run(prompt())


@pytest.fixture(scope="module")
def titled(prompt):
    """Numbers of nodes by their title."""
    return {node["_meta"]["title"]: number for number, node in prompt().items()}


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_it_runs_as_saved(done):
    assert done.succeeded, done.entry


def test_the_folder_is_evaluated(done, titled, base):
    table = rows(done.text(titled["table"]))
    assert [(row["label"], row["images"]) for row in table] == [(name, "2") for name in LABELS]
    records = (base / "output" / "runs" / "first.jsonl").read_text("utf-8").splitlines()[1:]
    right = sum(
        json.loads(line)["file"].split("/")[0] == json.loads(line)["best"] for line in records
    )
    assert len(records) == 6 and right >= 4
    assert f"({right} of 6; 95 % interval" in done.text(titled["summary"])
    assert float(done.text(titled["accuracy"])) == pytest.approx(right / 6)
    assert sum(int(row["right"]) for row in table) == right


def test_running_again_changes_nothing(server, done, prompt, base, titled):
    path = base / "output" / "runs" / "first.jsonl"
    before = path.read_bytes()
    again = server.run(prompt())
    assert again.succeeded
    assert path.read_bytes() == before
    assert again.text(titled["summary"]) == done.text(titled["summary"])


def test_evidence_comes_in_colours_with_its_margin(done, titled):
    values = done.text(titled["value"]).splitlines()
    assert values[0].startswith("plain disc over ")
    assert values[1].startswith("row-striped triangle over ")
    overlays, masks = done.images(titled["overlay"]), done.images(titled["mask"])
    assert len(overlays) == len(masks) == 2
    for overlay, mask in zip(overlays, masks, strict=True):
        red, blue = (overlay[..., c].astype(int) for c in (0, 2))
        assert (red > blue + 20).any() and (blue > red + 20).any()
        assert (mask[..., 0][red < blue] == 0).all() and mask.max() > 200


def test_the_image_that_shows_what_the_prompt_says_comes_first(done, titled, base):
    ranking = rows(done.text(titled["ranking"]))
    assert [row["image"] for row in ranking] == ["1", "0"]
    sorted_images = done.images(titled["sorted"])
    for image, name in zip(sorted_images, ("triangle", "disc"), strict=True):
        assert np.array_equal(image, np.asarray(Image.open(base / "input" / f"{name}.png")))


@pytest.mark.parametrize(
    ("name", "value"),
    [("folder", "/etc"), ("folder", "../output"), ("csv", "../../x.csv"), ("output", "../../x")],
)
def test_a_workflow_reaches_nothing_outside(server, base, prompt, name, value):
    before = sorted(base.parent.iterdir())
    message = server.run(prompt(BiGainEvaluate={name: value})).message("execution_error")
    assert "BiGain: expected a name below" in message["exception_message"]
    assert sorted(base.parent.iterdir()) == before

"""bigain_sure_or_not.json: the preset balanced, a screening model, and the gate."""

import csv
import io

import pytest

NAME = "bigain_sure_or_not"
INPUT_SHOWS = "cactus"


@pytest.fixture(scope="module")
def prompt(example, converted):
    return converted(example(NAME))


@pytest.fixture(scope="module")
def shipped(server, prompt):
    return server.run(prompt)


def said(done, prompt, node_ids):
    (number,) = node_ids(prompt, "PreviewAny")
    return done.text(number)


def test_it_is_sure_of_the_sample(shipped, prompt, node_ids):
    assert shipped.succeeded, shipped.entry
    assert said(shipped, prompt, node_ids) == INPUT_SHOWS


def test_the_deciding_model_sees_the_three_best(shipped, prompt, node_ids):
    (classifier,) = node_ids(prompt, "BiGainDiffusionClassifier")
    table, image, *_ = shipped.text(classifier).split("\n\n")
    rows = list(csv.DictReader(io.StringIO(table)))
    (labels,) = node_ids(prompt, "BiGainDiTLabels")
    assert {row["label"] for row in rows} == set(prompt[labels]["inputs"]["labels"].splitlines())
    assert len(rows) == 6 and len([row for row in rows if row["trials"] != "0"]) == 3
    assert image.splitlines()[0] == f"Image 0: {INPUT_SHOWS}"


def test_the_chart_is_an_image(shipped, prompt, node_ids):
    (number,) = node_ids(prompt, "PreviewImage")
    (sample,) = shipped.images(number)
    assert len({tuple(pixel) for row in sample for pixel in row}) > 3


def test_what_is_not_passed_on_is_not_run(server, example, converted, node_ids):
    """A branch that fails when it runs: labels that the model does not have."""

    def run(threshold):
        prompt = converted(example(NAME), BiGainGate={"threshold": threshold})
        (loader,) = node_ids(prompt, "BiGainDiTLoader")
        (gate,) = node_ids(prompt, "BiGainGate")
        inputs = {"model": [loader, 0], "labels": "no such class"}
        prompt["broken"] = {"class_type": "BiGainDiTLabels", "inputs": inputs}
        prompt[gate]["inputs"]["unsure"] = ["broken", 0]
        return server.run(prompt)

    assert run(0.5).succeeded
    unsure = run(1.5)
    assert not unsure.succeeded
    assert "no such class" in unsure.message("execution_error")["exception_message"]


def test_a_lead_that_is_not_sure_takes_the_other_way(server, example, converted, node_ids):
    prompt = converted(example(NAME), BiGainGate={"threshold": 1.5})
    done = server.run(prompt)
    assert done.succeeded, done.entry
    assert said(done, prompt, node_ids) == "not sure"

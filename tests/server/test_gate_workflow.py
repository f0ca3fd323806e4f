"""bigain_sure_or_not.json: the preset balanced, a screening model, and the gate."""

import csv
import io

import pytest

from tests.server.conftest import FEW_TOKENS

NAME = "bigain_sure_or_not"
INPUT_SHOWS = "cactus"
SMALL = {"BiGainDiTLoader": {"model_name": FEW_TOKENS}}


@pytest.fixture(scope="module")
def prompt(example, converted):
    return converted(example(NAME), **SMALL)


@pytest.fixture(scope="module")
def done(server, prompt):
    done = server.run(prompt)
    assert done.succeeded, done.entry
    return done


def said(done, prompt, node_ids):
    (number,) = node_ids(prompt, "PreviewAny")
    return done.text(number)


@pytest.mark.once
def test_it_is_sure_of_the_sample(server, example, converted, node_ids):
    """As saved, but for fewer classes."""
    labels = f"{INPUT_SHOWS}\npalm tree\nfrog\ntulip"
    prompt = converted(example(NAME), BiGainDiTLabels={"labels": labels})
    done = server.run(prompt)
    assert done.succeeded, done.entry
    assert said(done, prompt, node_ids) == INPUT_SHOWS


def test_the_deciding_model_sees_the_three_best(done, prompt, node_ids):
    (classifier,) = node_ids(prompt, "BiGainDiffusionClassifier")
    table, image, *_ = done.text(classifier).split("\n\n")
    rows = list(csv.DictReader(io.StringIO(table)))
    (labels,) = node_ids(prompt, "BiGainDiTLabels")
    assert {row["label"] for row in rows} == set(prompt[labels]["inputs"]["labels"].splitlines())
    assert len(rows) == 6 and len([row for row in rows if row["trials"] != "0"]) == 3
    (best,) = (row["label"] for row in rows if row["rank"] == "1")
    assert image.splitlines()[0] == f"Image 0: {best}"


def test_the_chart_is_an_image(done, prompt, node_ids):
    (number,) = node_ids(prompt, "PreviewImage")
    (sample,) = done.images(number)
    assert len({tuple(pixel) for row in sample for pixel in row}) > 3


def test_what_is_not_passed_on_is_not_run(server, example, converted, node_ids):
    """A branch that fails when it runs: labels that the model does not have."""

    def run(threshold):
        prompt = converted(example(NAME), **SMALL, BiGainGate={"threshold": threshold})
        (loader,) = node_ids(prompt, "BiGainDiTLoader")
        (gate,) = node_ids(prompt, "BiGainGate")
        inputs = {"model": [loader, 0], "labels": "no such class"}
        prompt["broken"] = {"class_type": "BiGainDiTLabels", "inputs": inputs}
        prompt[gate]["inputs"]["unsure"] = ["broken", 0]
        return server.run(prompt)

    assert run(0.0).succeeded
    unsure = run(1.5)
    assert not unsure.succeeded
    assert "no such class" in unsure.message("execution_error")["exception_message"]


def test_a_lead_that_is_not_sure_takes_the_other_way(server, example, converted, node_ids):
    prompt = converted(example(NAME), **SMALL, BiGainGate={"threshold": 1.5})
    done = server.run(prompt)
    assert done.succeeded, done.entry
    assert said(done, prompt, node_ids) == "not sure"


@pytest.mark.once
def test_an_image_that_shows_none_of_the_names_takes_the_other_way(
    server, example, converted, node_ids
):
    """However sure the ranking is; the classifier says so as well."""
    labels = "balloon\nbee"
    prompt = converted(
        example(NAME), BiGainDiTLabels={"labels": labels}, BiGainGate={"threshold": -1.0}
    )
    done = server.run(prompt)
    assert done.succeeded, done.entry
    assert said(done, prompt, node_ids) == "not sure"
    (classifier,) = node_ids(prompt, "BiGainDiffusionClassifier")
    assert "perhaps none of these: " in done.text(classifier)

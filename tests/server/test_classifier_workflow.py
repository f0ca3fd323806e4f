"""bigain_classify_image.json: what an image shows, by a compressed model."""

import csv
import io

import pytest

from benchmarks.drawings import CLASS_NAMES
from tests.server.conftest import FEW_TOKENS

NAME = "bigain_classify_image"
INPUT_SHOWS = "cactus"
OTHERS = ("palm tree", "fir tree", "tulip", "pizza", "bee")
SMALL = {"BiGainDiTLoader": {"model_name": FEW_TOKENS}}
FEW_TRIALS = {"BiGainDiffusionClassifier": {"preset.trials": "1, 5"}}


@pytest.fixture(scope="module")
def prompt(example, converted):
    return converted(example(NAME), **SMALL, **FEW_TRIALS)


@pytest.fixture(scope="module")
def done(server, prompt):
    done = server.run(prompt)
    assert done.succeeded, done.entry
    return done


def rows(done, classifier):
    table, _ = done.text(classifier).split("\n\n", 1)
    return list(csv.DictReader(io.StringIO(table)))


@pytest.fixture(scope="module")
def ranking(done, prompt, node_ids):
    """The rows of the table that the classifier shows."""
    (classifier,) = node_ids(prompt, "BiGainDiffusionClassifier")
    return rows(done, classifier)


def test_every_class_is_ranked(ranking):
    assert [row["rank"] for row in ranking] == [str(k) for k in range(1, len(CLASS_NAMES) + 1)]
    assert {row["label"] for row in ranking} == set(CLASS_NAMES)


def test_the_best_class_the_table_and_the_report_are_shown(done, prompt, node_ids, ranking):
    shown = {prompt[n]["_meta"]["title"]: done.text(n) for n in node_ids(prompt, "PreviewAny")}
    assert shown["Best class"] == ranking[0]["label"]
    assert shown["All classes, best first"].splitlines()[0] == ",".join(ranking[0])
    assert shown["Report"].startswith(
        "BiGain on class-conditional DiT: 2 of 6 self-attention layers compressed, "
    )
    assert ": L-GTM " in shown["Report"]


@pytest.mark.once
def test_it_finds_what_the_image_shows(server, example, converted, node_ids):
    """As saved, but for fewer trials and classes."""
    labels = {"labels": "\n".join([INPUT_SHOWS, *OTHERS])}
    prompt = converted(example(NAME), **FEW_TRIALS, BiGainDiTLabels=labels)
    done = server.run(prompt)
    assert done.succeeded, done.entry
    (classifier,) = node_ids(prompt, "BiGainDiffusionClassifier")
    assert rows(done, classifier)[0]["label"] == INPUT_SHOWS


def test_labels_that_are_given_are_the_only_ones_ranked(server, example, converted, node_ids):
    labels = ["pizza", "bee"]
    prompt = converted(
        example(NAME),
        **SMALL,
        BiGainDiTLabels={"labels": "\n".join(labels)},
        BiGainDiffusionClassifier={"preset.trials": "1"},
    )
    done = server.run(prompt)
    assert done.succeeded, done.entry
    (classifier,) = node_ids(prompt, "BiGainDiffusionClassifier")
    assert {row["label"] for row in rows(done, classifier)} == set(labels)

"""bigain_classify_image.json: what an image shows, by a compressed model."""

import csv
import io

import pytest

from benchmarks.drawings import CLASS_NAMES

NAME = "bigain_classify_image"
INPUT_SHOWS = "cactus"


@pytest.fixture(scope="module")
def prompt(example, converted):
    return converted(example(NAME), BiGainDiffusionClassifier={"preset.trials": "1, 5"})


@pytest.fixture(scope="module")
def shipped(server, prompt):
    return server.run(prompt)


def rows(done, classifier):
    table, _ = done.text(classifier).split("\n\n", 1)
    return list(csv.DictReader(io.StringIO(table)))


@pytest.fixture(scope="module")
def ranking(shipped, prompt, node_ids):
    """The rows of the table that the classifier shows."""
    (classifier,) = node_ids(prompt, "BiGainDiffusionClassifier")
    return rows(shipped, classifier)


def test_it_runs(shipped):
    assert shipped.succeeded, shipped.entry


def test_every_class_is_ranked(ranking):
    assert [row["rank"] for row in ranking] == [str(k) for k in range(1, len(CLASS_NAMES) + 1)]
    assert {row["label"] for row in ranking} == set(CLASS_NAMES)


def test_the_best_class_the_table_and_the_report_are_shown(shipped, prompt, node_ids, ranking):
    shown = {prompt[n]["_meta"]["title"]: shipped.text(n) for n in node_ids(prompt, "PreviewAny")}
    assert shown["Best class"] == ranking[0]["label"]
    assert shown["All classes, best first"].splitlines()[0] == ",".join(ranking[0])
    assert shown["Report"].startswith(
        "BiGain on class-conditional DiT: 2 of 6 self-attention layers compressed, "
    )
    assert ": L-GTM " in shown["Report"]


def test_it_finds_what_the_image_shows(ranking):
    assert ranking[0]["label"] == INPUT_SHOWS


def test_labels_that_are_given_are_the_only_ones_ranked(server, example, converted, node_ids):
    labels = ["pizza", "bee"]
    prompt = converted(
        example(NAME),
        BiGainDiTLabels={"labels": "\n".join(labels)},
        BiGainDiffusionClassifier={"preset.trials": "1"},
    )
    done = server.run(prompt)
    assert done.succeeded, done.entry
    (classifier,) = node_ids(prompt, "BiGainDiffusionClassifier")
    assert {row["label"] for row in rows(done, classifier)} == set(labels)

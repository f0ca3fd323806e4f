"""bigain_benchmark.json: every method of the paper on a small model, timed by a real server."""

import csv
import io

import pytest

from tests.server.conftest import FEW_TOKENS

NAME = "bigain_benchmark"
SMALL = {"BiGainDiTLoader": {"model_name": FEW_TOKENS}}
METHODS = 7  # of the paper's Table 3


@pytest.fixture(scope="module")
def run(server, example, converted):
    def queued(**benchmark):
        prompt = converted(example(NAME), **SMALL, BiGainBenchmark=benchmark)
        return prompt, server.run(prompt)

    return queued


@pytest.fixture(scope="module")
def shipped(run):
    return run(rounds=1)


@pytest.fixture(scope="module")
def table(shipped, node_ids):
    prompt, done = shipped
    assert done.succeeded, done.entry
    (number,) = node_ids(prompt, "PreviewAny")
    return list(csv.DictReader(io.StringIO(done.text(number))))


def test_it_measures_every_setting(table):
    names = [row["setting"] for row in table]
    assert names[:2] == ["off", "this model"] and len(set(names)) == 2 + METHODS
    assert all(float(row["ms"]) > 0 for row in table)


def test_this_model_is_the_one_before_the_benchmark(table):
    """Two blocks of six are merged there, all six by the methods."""
    layers = {row["setting"]: row["layers"] for row in table}
    assert layers["this model"] == "2"
    assert layers["L-GTM 0.7"] == "6"


def test_the_node_shows_a_summary_above_the_table(shipped, node_ids):
    prompt, done = shipped
    (number,) = node_ids(prompt, "BiGainBenchmark")
    assert done.text(number).startswith("BiGain on cpu, latent 1 x 3 x 96 x 96: ")


def test_the_chart_is_an_image(shipped, node_ids):
    prompt, done = shipped
    (number,) = node_ids(prompt, "PreviewImage")
    (image,) = done.images(number)
    assert len({tuple(pixel) for row in image for pixel in row}) > 3


def test_it_stops_when_interrupted(server, example, converted):
    """The node says when it begins; all its rounds would take minutes."""
    prompt = converted(example(NAME), **SMALL, BiGainBenchmark={"rounds": 100})
    done = server.run_and_interrupt(prompt, lambda log: "909 network calls" in log)
    assert not done.succeeded
    assert done.message("execution_interrupted")

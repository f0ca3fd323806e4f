"""The best of several seeds from a saved workflow, beside KSampler with the seed that it names."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

WORKFLOW = Path(__file__).parent / "workflows" / "best_of_n.json"


@pytest.fixture(scope="module")
def prompt(workflow, converted):
    return converted(workflow(WORKFLOW))


@pytest.fixture(scope="module")
def done(server, prompt):
    done = server.run(prompt)
    assert done.succeeded, done.entry
    return done


@pytest.fixture(scope="module")
def titled(prompt):
    return {node["_meta"]["title"]: number for number, node in prompt.items()}


def test_its_image_is_that_of_ksampler(done, titled):
    (found,), (again,) = (done.images(titled[name]) for name in ("best", "its seed with KSampler"))
    np.testing.assert_array_equal(found, again)
    assert found.std() > 0


def test_the_node_shows_its_answer(done, titled, prompt, node_ids):
    rows = list(csv.DictReader(io.StringIO(done.text(titled["table"]))))
    assert sorted(int(row["seed"]) for row in rows) == [7, 8, 9, 10]
    assert [row["dropped"] == "" for row in rows] == [True, False, False, False]
    (node,) = node_ids(prompt, "BiGainBestOfN")
    lines = done.text(node).splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == [
        f"{row['rank']}. seed {row['seed']}" for row in rows
    ]
    used = sum(int(row["evaluations"]) for row in rows)
    assert lines[4].startswith(f"{used} network evaluations")

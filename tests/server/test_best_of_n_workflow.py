"""bigain_best_of_seeds.json: the best of several seeds, beside KSampler with the seed it names."""

import csv
import io

import numpy as np
import pytest

from tests.server.conftest import FEW_TOKENS

NAME = "bigain_best_of_seeds"
FEWER = {"candidates": 4, "steps": 6, "scheduler": "karras", "trials": 6}
ENLARGED = 4
OF_KSAMPLER = ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
OF_BOTH = ("model", "positive", "negative")


@pytest.fixture(scope="module")
def prompt(example, converted, node_ids):
    """The workflow with fewer evaluations, and the host's sampler with the seed that is found."""
    small = {"model_name": FEW_TOKENS}
    prompt = converted(example(NAME), BiGainDiTLoader=small, BiGainBestOfN=FEWER)
    (best,), (decoded,) = (node_ids(prompt, kind) for kind in ("BiGainBestOfN", "VAEDecode"))
    given = prompt[best]["inputs"]
    inputs = {name: given[name] for name in (*OF_BOTH, *OF_KSAMPLER)}
    inputs |= {"latent_image": given["latent"], "seed": [best, 1]}
    pixels = {"samples": ["again", 0], "vae": prompt[decoded]["inputs"]["vae"]}
    prompt["again"] = {"class_type": "KSampler", "inputs": inputs}
    prompt["decoded"] = {"class_type": "VAEDecode", "inputs": pixels}
    prompt["image"] = {"class_type": "PreviewImage", "inputs": {"images": ["decoded", 0]}}
    prompt["table"] = {"class_type": "PreviewAny", "inputs": {"source": [best, 2]}}
    return prompt


@pytest.fixture(scope="module")
def done(server, prompt):
    done = server.run(prompt)
    assert done.succeeded, done.entry
    return done


def test_its_image_is_that_of_ksampler(done, prompt, node_ids):
    (save,) = node_ids(prompt, "SaveImage")
    (found,), (again,) = done.images(save), done.images("image")
    np.testing.assert_array_equal(found[::ENLARGED, ::ENLARGED], again)
    assert found.std() > 0


def test_the_node_shows_its_answer(done, prompt, node_ids):
    rows = list(csv.DictReader(io.StringIO(done.text("table"))))
    assert sorted(int(row["seed"]) for row in rows) == [7, 8, 9, 10]
    assert [row["dropped"] == "" for row in rows] == [True, False, False, False]
    (node,) = node_ids(prompt, "BiGainBestOfN")
    lines = done.text(node).splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == [
        f"{row['rank']}. seed {row['seed']}" for row in rows
    ]
    used = sum(int(row["evaluations"]) for row in rows)
    assert lines[4].startswith(f"{used} network evaluations")
    (shown,) = done.entry["outputs"][node]["bigain_best"]
    assert [{key: str(value) for key, value in row.items()} for row in shown["rows"]] == rows
    assert f"{1 - shown['saved']:.0%} of the" in lines[4]

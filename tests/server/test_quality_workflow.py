"""bigain_compare_quality.json: the same images plain, with Auto and downsampled, in one grid."""

import csv
import io

import numpy as np
import pytest

from tests.server.conftest import FEW_TOKENS

NAME = "bigain_compare_quality"
COMPRESSING = ("BiGainAuto", "BiGainKVDownsampling")
OFF = {"BiGainAuto": {"preset": "off"}, "BiGainKVDownsampling": {"factor": 1}}
STEPS, IMAGES, MODELS = 2, 4, 3
SIDE = 64
SMALL = {  # Auto leaves so few tokens as they are
    "BiGainDiTLoader": {"model_name": FEW_TOKENS},
    "BiGainAuto": {"preset": "paper: DiT: L-GTM 0.7, published blocks"},
}


@pytest.fixture(scope="module")
def run(server, example, converted, node_ids):
    """Runs the workflow with changes: the images of each model, and what the server says of it."""

    def queued(switched_off=(), **changes):
        prompt = converted(example(NAME, switched_off), **{**SMALL, **changes})
        (compare,) = node_ids(prompt, "BiGainCompare")
        prompt[compare]["inputs"]["steps"] = STEPS
        saved = {"images": [compare, 1], "filename_prefix": "every"}
        prompt["images"] = {"class_type": "SaveImage", "inputs": saved}
        prompt["table"] = {"class_type": "PreviewAny", "inputs": {"source": [compare, 2]}}
        done = server.run(prompt)
        assert done.succeeded, done.entry
        return np.stack(done.images("images")).reshape(MODELS, IMAGES, SIDE, SIDE, 3), prompt, done

    return queued


@pytest.fixture(scope="module")
def shipped(run):
    return run()


def test_every_model_has_a_row_in_the_grid_and_in_the_table(server, shipped, node_ids):
    images, prompt, done = shipped
    table = list(csv.DictReader(io.StringIO(done.text("table"))))
    names = ["plain", "BiGain (Auto)", "IE-KVD factor 2"]
    assert [row["model"] for row in table] == names
    assert [row["operations"] == "" for row in table] == [True, False, False]
    kinds = "BiGainCompare", "SaveImage"
    (grid,), (saved,) = (done.images(node_ids(prompt, kind)[0]) for kind in kinds)
    assert np.array_equal(grid, saved)
    assert "BiGain: IE-KVD factor 2: " in server.log
    for row in images:  # enlarged, one beside the other
        line = np.concatenate(list(row), 1).repeat(3, 0).repeat(3, 1)
        width = line.shape[1]
        left = (grid.shape[1] - width) // 2
        columns = grid[:, left : left + width].astype(int)
        tops = range(len(grid) - len(line) + 1)
        begun = [top for top in tops if np.allclose(columns[top], line[0], atol=1)]
        assert any(np.allclose(columns[top : top + len(line)], line, atol=1) for top in begun)


def test_the_same_prompt_again_is_answered_from_the_cache(server, shipped):
    _, prompt, _ = shipped
    server.run(prompt)
    assert set(server.run(prompt).message("execution_cached")["nodes"]) == set(prompt)


def test_each_image_of_the_batch_has_its_own_class(run, shipped):
    other, *_ = run(BiGainDiTLabels={"labels": "penguin\nguitar\nsunflower\nrocket"})
    for before, after in zip(shipped[0], other, strict=True):
        same = [np.array_equal(*pair) for pair in zip(before, after, strict=True)]
        assert same == [True, False, True, True]


def test_compression_changes_the_images(shipped):
    plain, automatic, downsampled = shipped[0]
    assert not np.array_equal(plain, automatic)
    assert not np.array_equal(plain, downsampled)
    assert not np.array_equal(automatic, downsampled)


@pytest.mark.parametrize("off", [{"switched_off": COMPRESSING}, OFF], ids=["bypassed", "0 and 1"])
def test_nodes_that_are_off_leave_the_plain_images(run, shipped, off):
    for images in run(**off)[0]:
        assert np.array_equal(images, shipped[0][0])


def test_an_unknown_class_is_an_error_in_our_words(server, example, converted, node_ids):
    prompt = converted(example(NAME), BiGainDiTLabels={"labels": "penguin\nwolf"})
    done = server.run(prompt)
    assert not done.succeeded
    error = done.message("execution_error")
    assert [error["node_id"]] == node_ids(prompt, "BiGainDiTLabels")
    assert error["exception_message"].startswith("BiGain: expected a class number from 0 to 47 or")
    assert "got 'wolf'" in error["exception_message"]


def test_as_saved_auto_saves_operations(server, example, converted, node_ids):
    """With the bundled model, one image and one step."""
    one = {"EmptyChromaRadianceLatentImage": {"batch_size": 1}}
    prompt = converted(example(NAME), **one, BiGainDiTLabels={"labels": "rocket"})
    (compare,) = node_ids(prompt, "BiGainCompare")
    prompt[compare]["inputs"]["steps"] = 1
    prompt["table"] = {"class_type": "PreviewAny", "inputs": {"source": [compare, 2]}}
    _, automatic, _ = csv.DictReader(io.StringIO(server.run(prompt).text("table")))
    assert automatic["model"] == "BiGain (Auto)" and float(automatic["operations"]) < 0.8

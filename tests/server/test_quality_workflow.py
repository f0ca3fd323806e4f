"""bigain_compare_quality.json: the same images plain, merged and downsampled, in one grid."""

import csv
import io

import numpy as np
import pytest

NAME = "bigain_compare_quality"
COMPRESSING = ("BiGainTokenMerging", "BiGainKVDownsampling")
OFF = {"BiGainTokenMerging": {"ratio": 0.0}, "BiGainKVDownsampling": {"factor": 1}}
STEPS, IMAGES, MODELS = 2, 4, 3
SIDE = 32  # half of the saved one, which is four times as fast


@pytest.fixture(scope="module")
def run(server, example, converted, node_ids):
    """Runs the workflow with changes: the images of each model, and what the server says of it."""

    def queued(switched_off=(), **changes):
        small = {"EmptyChromaRadianceLatentImage": {"width": SIDE, "height": SIDE}}
        prompt = converted(example(NAME, switched_off), **small, **changes)
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
    names = ["plain", "L-GTM 0.7", "IE-KVD factor 2, alpha 0.9"]
    assert [row["model"] for row in table] == names
    assert [row["operations"] == "" for row in table] == [True, False, False]
    kinds = "BiGainCompare", "SaveImage"
    (grid,), (saved,) = (done.images(node_ids(prompt, kind)[0]) for kind in kinds)
    assert np.array_equal(grid, saved)
    assert "BiGain: L-GTM 0.7: " in server.log
    for row in images:  # enlarged, one beside the other
        line = np.concatenate(list(row), 1).repeat(6, 0).repeat(6, 1)
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
    plain, merged, downsampled = shipped[0]
    assert not np.array_equal(plain, merged)
    assert not np.array_equal(plain, downsampled)
    assert not np.array_equal(merged, downsampled)


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

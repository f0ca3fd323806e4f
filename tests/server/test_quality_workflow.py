"""bigain_compare_quality.json: the same images plain, merged and downsampled."""

import re

import numpy as np
import pytest

NAME = "bigain_compare_quality"
COMPRESSING = ("BiGainTokenMerging", "BiGainKVDownsampling")
OFF = {"BiGainTokenMerging": {"ratio": 0.0}, "BiGainKVDownsampling": {"factor": 1}}
FEW_STEPS = {"KSampler": {"steps": 4}}
VARIANTS = ("plain", "token_merging", "kv_downsampling")


def images(done, prompt):
    """What each variant saved, (4, H, W, 3)."""
    assert done.succeeded, done.entry
    savers = {
        node["inputs"]["filename_prefix"]: number
        for number, node in prompt.items()
        if node["class_type"] == "SaveImage"
    }
    return {name: np.stack(done.images(savers[f"bigain/{name}"])) for name in VARIANTS}


@pytest.fixture(scope="module")
def saved(server):
    """Runs a prompt: its images."""
    return lambda prompt: images(server.run(prompt), prompt)


@pytest.fixture(scope="module")
def shipped(server, example, converted):
    return server.run(converted(example(NAME), **FEW_STEPS))


@pytest.fixture(scope="module")
def few_steps(shipped, example, converted):
    return images(shipped, converted(example(NAME)))


@pytest.fixture(scope="module")
def reports(example, converted, node_ids):
    """The texts of a run's reports, merging first."""

    def read(run):
        return [run.text(number) for number in node_ids(converted(example(NAME)), "BiGainReport")]

    return read


def test_it_runs_with_few_steps(shipped, example, converted, node_ids):
    assert shipped.succeeded, shipped.entry
    savers = node_ids(converted(example(NAME)), "SaveImage")
    assert len(savers) == len(VARIANTS)
    for saver in savers:
        assert [image.shape for image in shipped.images(saver)] == [(256, 256, 3)] * 4


def test_the_reports_say_what_was_done(shipped, reports):
    for text, method in zip(reports(shipped), ("L-GTM", "IE-KVD"), strict=True):
        first, *layers = text.splitlines()
        assert first.startswith(
            "BiGain on class-conditional DiT: 2 of 6 self-attention layers compressed, "
        )
        assert int(re.search(r"\((\d+)% saved\)", first)[1]) > 0
        assert [line.split(" (")[0] for line in layers] == ["layer 1", "layer 2"]
        for line in layers:
            assert f": {method} " in line and line.endswith(" in 4 of 4 calls")


def test_the_report_is_shown_below_it_too(shipped, reports, example, converted, node_ids):
    shown = [shipped.text(n) for n in node_ids(converted(example(NAME)), "PreviewAny")]
    assert shown == reports(shipped)


def test_images_are_upscaled_without_mixing_pixels(few_steps):
    for images in few_steps.values():
        small = images[:, ::8, ::8]
        assert small.shape == (4, 32, 32, 3)
        assert np.array_equal(small.repeat(8, 1).repeat(8, 2), images)


def test_each_image_of_the_batch_has_its_own_class(saved, few_steps, example, converted):
    labels = {"BiGainDiTLabels": {"labels": "row-striped disc\nplain cross\nplain ring\ndigit 7"}}
    other = saved(converted(example(NAME), **FEW_STEPS, **labels))
    for name in VARIANTS:
        same = [np.array_equal(*pair) for pair in zip(few_steps[name], other[name], strict=True)]
        assert same == [True, False, True, True]


def test_compression_changes_the_images(few_steps):
    plain, merged, downsampled = (few_steps[name] for name in VARIANTS)
    assert not np.array_equal(plain, merged)
    assert not np.array_equal(plain, downsampled)
    assert not np.array_equal(merged, downsampled)


def test_bypassed_nodes_leave_the_plain_images(saved, few_steps, example, converted):
    bypassed = saved(converted(example(NAME, switched_off=COMPRESSING), **FEW_STEPS))
    for name in VARIANTS:
        assert np.array_equal(bypassed[name], few_steps["plain"])


def test_ratio_0_and_factor_1_leave_the_plain_images(saved, few_steps, example, converted):
    off = saved(converted(example(NAME), **FEW_STEPS, **OFF))
    for name in VARIANTS:
        assert np.array_equal(off[name], few_steps["plain"])


def test_the_report_on_an_uncompressed_model_says_so(server, example, converted, reports):
    done = server.run(converted(example(NAME), **FEW_STEPS, **OFF))
    assert reports(done) == ["BiGain: no compression on this model."] * 2


def test_the_same_prompt_again_is_answered_from_the_cache(saved, server, example, converted):
    prompt = converted(example(NAME), **FEW_STEPS)
    once, again = saved(prompt), saved(prompt)
    assert all(np.array_equal(once[name], again[name]) for name in VARIANTS)
    assert set(server.run(prompt).message("execution_cached")["nodes"]) == set(prompt)


def test_a_reused_model_is_reported_on_afresh(server, example, converted, node_ids, reports):
    """Only the samplers run again, with the patched models of the run before."""
    server.run(converted(example(NAME), **FEW_STEPS))
    prompt = converted(example(NAME), KSampler={"steps": 3})
    done = server.run(prompt)
    patched = [number for kind in COMPRESSING for number in node_ids(prompt, kind)]
    assert set(patched) <= set(done.message("execution_cached")["nodes"])
    for text in reports(done):
        assert all(line.endswith(" in 3 of 3 calls") for line in text.splitlines()[1:])


def test_an_unknown_class_is_an_error_in_our_words(server, example, converted, node_ids):
    prompt = converted(example(NAME), BiGainDiTLabels={"labels": "plain disc\nfox"})
    done = server.run(prompt)
    assert not done.succeeded
    error = done.message("execution_error")
    assert [error["node_id"]] == node_ids(prompt, "BiGainDiTLabels")
    assert error["exception_message"].startswith("BiGain: expected a class number from 0 to 39 or")
    assert "got 'fox'" in error["exception_message"]

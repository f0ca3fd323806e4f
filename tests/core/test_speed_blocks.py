"""The layer that speed is measured on, and the settings beside each other."""

import pytest
import torch

from benchmarks import speed_blocks
from benchmarks.speed_blocks import METHODS, OFF, Layer, Setting
from bigain_core.methods import KVDownsampling, TokenMerging

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def layer():
    return Layer.random(256, 320, 1, CPU, torch.float32)


def test_the_plain_layer_is_torchs_own_attention(layer):
    *inputs, out = layer.projections
    normed = layer.norm(layer.x).transpose(0, 1)  # (N, B, C)
    expected, _ = torch.nn.functional.multi_head_attention_forward(
        *(normed, normed, normed, 320, 8, torch.cat(inputs), None, None, None, False, 0.0),
        *(out, None),
    )
    plain = speed_blocks.settings_of(layer, with_host=False)[OFF].work()
    torch.testing.assert_close(plain, expected.transpose(0, 1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", [TokenMerging(0.001), KVDownsampling(1)])
def test_a_method_that_keeps_every_token_gives_the_plain_layer(layer, method):
    assert torch.equal(speed_blocks.ours(layer, method).work(), layer.shortened(256, 256))


def test_the_package_of_tome_merges_as_our_rule_of_the_same_destinations(layer):
    """It takes the top left of each cell where the batch is odd."""
    theirs = speed_blocks.tomesd_package(layer)
    ours = speed_blocks.ours(layer, TokenMerging(0.7, "top-left"))
    assert theirs.left == ours.left
    torch.testing.assert_close(theirs.work(), ours.work(), atol=1e-5, rtol=1e-4)


def test_todo_samples_as_our_pooling_at_alpha_1(layer):
    ours = speed_blocks.ours(layer, METHODS["ToDo factor 2"])
    theirs = speed_blocks.todo_by_interpolation(layer)
    assert theirs.left == ours.left
    torch.testing.assert_close(theirs.work(), ours.work(), atol=1e-5, rtol=1e-4)


def test_a_cached_assignment_gives_what_deciding_gives(layer):
    fresh, cached = (speed_blocks.ours(layer, TokenMerging(0.7), known) for known in (False, True))
    assert torch.equal(fresh.work(), cached.work())
    assert set(fresh.steps) - set(cached.steps) == {"deciding"}


def test_tiles_of_queries_attend_to_strips_of_keys(layer):
    """As in the host, where a batch of tiles meets keys of the image."""
    model = speed_blocks._Recorder()
    model.set_model_attn1_patch(lambda q, k, v, options: (q.unflatten(1, (2, -1))[0], k, v))
    model.set_model_attn1_output_patch(lambda y, options: y.flatten(0, 1)[None])
    tiled = speed_blocks._with_patches(layer, model)()
    normed = layer.norm(layer.x)
    for strip in (slice(128), slice(128, 256)):
        part = normed[:, strip]
        expected = layer.attention(part, part)
        torch.testing.assert_close(tiled[:, strip], expected, atol=1e-5, rtol=1e-4)


def test_peak_memory_is_that_of_the_tensors_alive_together():
    def work():
        first = torch.zeros(2**18)
        second = first + 1
        del first
        return second + 1

    assert speed_blocks.peak_bytes(work, CPU) == pytest.approx(2 * 2**20, abs=100)


def test_every_setting_has_its_row(layer):
    settings = speed_blocks.settings_of(layer, with_host=False)
    peers = {"tomesd 0.7", "ToDo by interpolation"}
    assert set(settings) == {OFF, speed_blocks.CACHED, *METHODS, *peers}
    text = speed_blocks.report(layer, settings, rounds=1)
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows[2 : 2 + len(settings)] == list(settings)
    stepwise = [name for name, setting in settings.items() if setting.steps]
    assert rows[-len(stepwise) :] == stepwise


def test_a_setting_may_have_neither_steps_nor_lengths(layer):
    settings = {OFF: speed_blocks.settings_of(layer, False)[OFF], "other": Setting(lambda: layer.x)}
    assert "| other" in speed_blocks.report(layer, settings, rounds=1)

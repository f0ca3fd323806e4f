"""BiGain Compare: the host's own sampling with several models, in one grid."""

import csv
import io
import logging

import comfy.model_management
import comfy.samplers
import pytest
import torch
from bigain.bigain_core.comfyui.patching.attach import compression_state
from bigain.nodes.compare_node import BiGainCompare
from bigain.nodes.dit_nodes import BiGainDiTLabels

import nodes
from tests.host.compressing import merge, pool

pytestmark = pytest.mark.once

SIDE, STEPS, CFG = 32, 3, 2.0


@pytest.fixture
def compare(shallow, vae):
    positive, negative = BiGainDiTLabels.execute(shallow, "plain disc\ndigit 7").args[:2]
    latent = {"samples": torch.zeros(2, 3, SIDE, SIDE)}

    def run(*models, captions="", latent=latent):
        given = {f"model{place}": model for place, model in enumerate(models)}
        settings = (7, STEPS, CFG, "euler", "normal")
        return BiGainCompare.execute(given, vae, positive, negative, latent, *settings, captions)

    def ksampler(model):
        settings = (model, 7, STEPS, CFG, "euler", "normal", positive, negative, latent)
        return vae.decode(nodes.common_ksampler(*settings)[0]["samples"])

    run.ksampler = ksampler
    return run


def rows(table):
    return list(csv.DictReader(io.StringIO(table)))


def test_images_are_those_of_the_hosts_sampler(compare, shallow):
    models = shallow, merge(shallow, 0.5), pool(shallow)
    grid, images, table = compare(*models).args
    assert torch.equal(images, torch.cat([compare.ksampler(model) for model in models]))
    found = rows(table)
    assert [row["model"] for row in found] == ["plain", "L-GTM 0.5", "IE-KVD factor 2, alpha 0.9"]
    log = compression_state(models[1]).log
    assert float(found[1]["operations"]) == pytest.approx(
        1 - log.flops_saved / log.network_flops, abs=1e-3
    )
    assert found[0]["operations"] == "" and float(found[0]["SSIM"]) == 1
    assert all(float(row["seconds"]) > 0 for row in found)
    assert grid.shape[0] == 1 and grid.shape[3] == 3 and 0 <= grid.min() and grid.max() <= 1


def test_every_image_is_in_the_grid(compare, shallow):
    """Enlarged by whole pixels, so that one of each block gives the image back."""
    grid, images, _ = compare(shallow, merge(shallow)).args
    times = -(-192 // SIDE)
    wanted = [torch.cat(list(row), 1) for row in images.unflatten(0, (2, 2))]
    for picture in wanted:
        picture = (picture * 255).round() / 255
        height, width = picture.shape[0] * times, picture.shape[1] * times
        tops = [
            top
            for top in range(grid.shape[1] - height + 1)
            for left in [grid.shape[2] // 50]
            if any(
                torch.equal(grid[0, top : top + height : times, x : x + width : times], picture)
                for x in range(left + 20)
            )
        ]
        assert tops


def test_captions_name_models_and_no_name_stands_twice(compare, shallow):
    same = merge(shallow)
    table = compare(shallow, shallow, same, same, captions="mine\n\u732b").args[2]
    assert [row["model"] for row in rows(table)] == ["mine", "\u732b", "L-GTM 0.7", "L-GTM 0.7 (2)"]


def test_a_video_is_shown_by_frames_evenly_spread(monkeypatch, compare, shallow, vae):
    """As the autoencoder of a video gives them: (B, F, H, W, 3)."""
    frames = torch.arange(33).reshape(1, 33, 1, 1, 1).expand(1, 33, 8, 8, 3) / 32
    monkeypatch.setattr(vae, "decode", lambda latents: frames)
    grid, images, _ = compare(shallow, shallow).args
    assert images.shape == (66, 8, 8, 3)
    shown = {round(value * 255) for value in grid.unique().tolist()}
    assert {round(n / 32 * 255) for n in (0, 5, 9, 14, 18, 23, 27, 32)} <= shown


def test_numbers_are_said_as_they_come(compare, shallow, caplog):
    with caplog.at_level(logging.INFO):
        compare(shallow, pool(shallow))
    assert (
        "BiGain: IE-KVD factor 2, alpha 0.9: " in caplog.text and "% of operations" in caplog.text
    )


def test_it_stops_when_interrupted(compare, shallow):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        compare(shallow, merge(shallow))

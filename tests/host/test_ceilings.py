"""The counted gains on full-size networks against an analysis on paper.

It takes the blocks only and knows nothing of the code: 4 N^2 C for attention over N tokens of which
n are of the image, everything else from the published count of a network.
"""

from functools import cache
from pathlib import Path

import comfy.supported_models
import pytest

from benchmarks.ceilings import MODELS, build, count
from bigain_core.compression.rules import Rule
from bigain_core.methods import KVDownsampling, TokenMerging

FLUX_WITHOUT_ATTENTION = 59.5e12  # at 1024 pixels with 512 tokens of text, counted by others


@pytest.fixture(scope="module")
def log():
    """What is counted at a size with a method."""
    model = MODELS["Flux"]
    flux = build(model)
    return cache(lambda size, method: count(flux, model, model.sizes[size], Rule(method)))


@pytest.mark.parametrize("factor", [2, 4])
def test_flux_at_1024_pixels_saves_what_the_formula_says(log, factor):
    layers, width, image, text = 57, 3072, 4096, 512
    attention = layers * 4 * (image + text) ** 2 * width
    keys_left = (image / factor**2 + text) / (image + text)
    log = log("1024 px", KVDownsampling(factor))
    assert log.layers_compressed == layers
    assert log.flops_saved == pytest.approx(attention * (1 - keys_left), rel=1e-9)
    assert log.network_flops == pytest.approx(FLUX_WITHOUT_ATTENTION + attention, rel=0.002)
    fixed = log.network_flops - log.flops_before + log.flops_fixed
    assert fixed == pytest.approx(log.network_flops - attention, rel=1e-9)


@pytest.mark.skipif(
    not hasattr(comfy.supported_models, "MiniMaxH3"), reason="this ComfyUI has no such model"
)
def test_the_video_of_h3_is_all_that_gets_shorter():
    """5 s are 124 frames, 37 of the latent, and 207 of sound in stereo."""
    model, layers, width = MODELS["MiniMax H3"], 50, 56 * 128
    video, fixed = 37 * 16 * 28, 512 + 2 * 207
    network = build(model)
    log = count(network, model, model.sizes["896x512, 5 s"], Rule(KVDownsampling(2)))
    attention = layers * 4 * (video + fixed) ** 2 * width
    keys_left = (video / 4 + fixed) / (video + fixed)
    assert log.layers_compressed == layers
    assert log.flops_saved == pytest.approx(attention * (1 - keys_left), rel=1e-9)
    gain = log.network_flops / (log.network_flops - log.flops_saved)
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    assert f"| MiniMax H3, 896x512, 5 s | | 1.53x | | {gain:.2f}x |" in readme


def test_the_readme_gives_the_gains_that_are_counted(log):
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    for size in MODELS["Flux"].sizes:
        logs = [log(size, method) for method in (TokenMerging(0.7), KVDownsampling(2))]
        gains = [one.network_flops / (one.network_flops - one.flops_saved) for one in logs]
        (row,) = (line for line in readme.splitlines() if line.startswith(f"| Flux, {size} |"))
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[3:6:2] == [f"{gain:.2f}x" for gain in gains]

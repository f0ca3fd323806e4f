"""Closed-form operation counts against torch's counter and the published figures."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.dit_runner import DiTRunner, PlainDiT
from benchmarks.flops import (
    DEARER,
    MODELS,
    POOLED_AFTER_PROJECTION,
    PRINTED,
    count,
    main,
    published_count,
)
from benchmarks.outlines.dit_outline import DIT_XL_2, dit_outline
from benchmarks.outlines.outline import convolution_flops, cross_attention_flops
from benchmarks.outlines.unet_outline import SD_1, SD_2, SD_XL, unet_outline
from bigain_core.compression.forwards import replaced_forwards
from bigain_core.compression.presets import PRESETS
from bigain_core.compression.rules import Compression, Rule
from bigain_core.measure.flops import (
    projections_shortened,
    self_attention_flops,
)
from bigain_core.methods import KVDownsampling, TokenMerging
from bigain_core.models.compressed_dit import replacements
from bigain_core.models.dit import DiTConfig
from bigain_core.placement import Placement
from bigain_core.tokens import scoring
from bigain_core.tokens.grid import TokenGrid
from tests.core.calls import counted, network_call


@pytest.mark.parametrize("after_projection", [False, True])
@pytest.mark.parametrize(
    ("width", "tokens", "context"),
    [(320, 4096, 4096), (320, 4096, 1024), (1152, 1024, 1024), (64, 35, 6)],
)
def test_self_attention_equals_the_count_of_torch(width, tokens, context, after_projection):
    projected = tokens if after_projection else context
    to_q, to_k, to_v, to_out = (nn.Linear(width, width, device="meta") for _ in range(4))

    def layer():
        q = to_q(torch.empty(1, tokens, width, device="meta"))
        source = torch.empty(1, projected, width, device="meta")
        k, v = to_k(source)[:, :context], to_v(source)[:, :context]
        weights = (q @ k.mT).softmax(-1)
        to_out(weights @ v)

    assert self_attention_flops(width, tokens, context, projected) == counted(layer)


def test_cross_attention_equals_the_count_of_torch():
    to_q, to_out = (nn.Linear(320, 320, device="meta") for _ in range(2))
    to_k, to_v = (nn.Linear(768, 320, device="meta") for _ in range(2))

    def layer():
        q = to_q(torch.empty(1, 4096, 320, device="meta"))
        prompt = torch.empty(1, 77, 768, device="meta")
        to_out((q @ to_k(prompt).mT).softmax(-1) @ to_v(prompt))

    assert cross_attention_flops(320, 4096, 77, 768) == counted(layer)


def test_a_convolution_equals_the_count_of_torch():
    image, kernel = torch.empty(1, 4, 9, 15, device="meta"), torch.empty(32, 4, 3, 3, device="meta")
    strided = counted(lambda: functional.conv2d(image, kernel, stride=2, padding=1))
    assert convolution_flops(4, 32, 3, 5 * 8) == strided


DIT = DiTConfig(8, 2, 4, 64, 3, 4, 5, learn_sigma=False)


def dit_call(config, height, width, *rules):
    """A compressed call on tensors without data."""
    model = PlainDiT(config, device="meta")
    x = torch.empty(1, config.in_channels, height, width, device="meta")
    one = torch.zeros(1, dtype=torch.long, device="meta")
    call = network_call(*rules, layer_flops=projections_shortened)
    with replaced_forwards(replacements(model, x, call)):
        model(x, one, one)
    return call.log


@pytest.mark.parametrize(
    ("config", "height", "width"),
    [
        (DIT_XL_2, 64, 64),
        (DIT, 8, 8),
        (DIT, 7, 12),
        (replace(DIT, learn_sigma=True, in_channels=3), 8, 8),
        (replace(DIT, patch_size=4, depth=1), 9, 16),
    ],
)
def test_a_plain_dit_equals_the_count_of_torch(config, height, width):
    outline = dit_outline(config, height, width)
    assert outline.flops == counted(lambda: dit_call(config, height, width))


@pytest.mark.parametrize(
    "method", [TokenMerging(0.7), TokenMerging(0.7, "random"), KVDownsampling(2)]
)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (15, 40)])
def test_a_compressed_dit_equals_the_count_of_torch(monkeypatch, method, height, width):
    def convolved(image, padding, combine):
        """The Laplacian as the paper counts it; torch counts nothing in our sum of shifts."""
        channels = image.shape[-1]
        kernel = torch.empty(channels, 1, 3, 3, device="meta")
        summed = functional.conv2d(image.movedim(-1, 1), kernel, padding=1, groups=channels)
        return combine(image, summed.movedim(1, -1))

    monkeypatch.setattr(scoring, "_with_neighbours", convolved)
    rule = Rule(method, Placement(layers=(1, 2)))
    outline = dit_outline(DIT, height, width)
    log = outline.log(Compression((rule,)))
    assert log.layers_compressed == 2
    assert outline.flops - log.flops_saved == counted(lambda: dit_call(DIT, height, width, rule))


def test_an_outline_logs_what_a_call_logs(make_dit, randn):
    model, compression = make_dit(), Compression((Rule(TokenMerging(0.5)),))
    runner = DiTRunner(model, compression)
    runner.predict_noise(randn(1, 4, 8, 8), 500, torch.tensor([0]))
    assert dit_outline(model.config, 8, 8).log(compression).layers == runner.log.layers


def test_stable_diffusion_2_costs_what_is_published():
    assert unet_outline(SD_2, 64, 64).flops / 1e9 == pytest.approx(804.257, abs=5e-4)


@pytest.mark.parametrize(
    ("config", "levels"),
    [(SD_1, (5, 5, 5, 1)), (SD_2, (5, 5, 5, 1)), (SD_XL, (10, 60))],
)
def test_layers_by_level(config, levels):
    layers = unet_outline(config, 40, 66).layers
    assert [layer.layer_id.number for layer in layers] == list(range(len(layers)))
    found = Counter(layer.layer_id.level for layer in layers)
    assert tuple(found[level] for level in sorted(found)) == levels


def test_sides_are_halved_and_rounded_up():
    layers = unet_outline(SD_2, 9, 30).layers
    grids = {layer.layer_id.level: layer.grid for layer in layers}
    assert grids == {
        1: TokenGrid(9, 30),
        2: TokenGrid(5, 15),
        3: TokenGrid(3, 8),
        4: TokenGrid(2, 4),
    }


def test_the_finest_layers_of_stable_diffusion_2():
    finest = [layer for layer in unet_outline(SD_2, 64, 64).layers if layer.layer_id.level == 1]
    assert [layer.layer_id.stage for layer in finest] == ["encoder"] * 2 + ["decoder"] * 3
    assert {(layer.grid, layer.width) for layer in finest} == {(TokenGrid(64, 64), 320)}


@pytest.mark.parametrize("name", PRINTED)
def test_printed_figures_are_reproduced_to_the_last_digit(name):
    published = published_count(unet_outline(SD_2, 64, 64), name)
    assert f"{published.compressed / 1e9:.2f}" == f"{PRINTED[name]:.2f}"


@pytest.mark.parametrize("name", PRINTED)
def test_we_do_no_more_work_than_the_published_code(name):
    outline = unet_outline(SD_2, 64, 64)
    published, ours = published_count(outline, name), count(outline, PRESETS[name])
    if name in (*DEARER, *POOLED_AFTER_PROJECTION):
        assert ours.compressed < published.compressed
    else:
        assert ours == published


@pytest.mark.parametrize(
    ("method", "percent"),
    [
        *zip(
            [TokenMerging(ratio, "random") for ratio in (0.3, 0.4, 0.5, 0.6, 0.7, 0.75)],
            [6.2, 8.1, 9.8, 11.2, 12.4, 12.8],
            strict=True,
        ),
        *zip([KVDownsampling(s) for s in (2, 3, 4)], [10.8, 12.8, 13.5], strict=True),
    ],
)
def test_published_savings(method, percent):
    outline = unet_outline(SD_2, 64, 64)
    saved = outline.log(Compression((Rule(method),))).flops_saved
    assert f"{100 * saved / outline.flops:.1f}" == f"{percent}"


def test_both_tables_are_printed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["flops"])
    main()
    printed = capsys.readouterr().out
    for name in (*PRINTED, *MODELS):
        assert f"| {name}" in printed
    sd2 = next(line for line in printed.splitlines() if line.startswith("| SD 2.0, 512 px"))
    assert [cell.strip() for cell in sd2.split("|")[2:-1]] == [
        "804.3",
        "705.0",
        "1.14x",
        "717.4",
        "1.12x",
    ]

"""Networks whose image asks alone: keys and values are those of all that comes before, too.

A stand-in for Qwen-Image 2.1, which no host here has: its text attends to itself, a reference
image to the text and itself, and the image to everything. With a cached prefix only the last call
remains.
"""

import pytest
import torch
from bigain.bigain_core.comfyui.patching.adapter import Inputs
from bigain.bigain_core.comfyui.patching.families import find_family
from bigain.bigain_core.compression.forwards import replaced_forwards
from bigain.bigain_core.compression.network_call import NetworkCall
from bigain.bigain_core.compression.rules import Compression, Rule
from bigain.bigain_core.compression.run_log import RunLog
from bigain.bigain_core.methods import KVDownsampling, TokenMerging
from bigain.bigain_core.schedules import AlphaSchedule, DenoisingProgress
from bigain.bigain_core.tokens.grid import TokenGrid
from torch.nn.functional import scaled_dot_product_attention

from tests.host.newer_attention import ChosenAttention
from tests.host.recording import OVERRIDE

TEXT, REFERENCE, ROWS, COLUMNS, WIDTH = 5, 6, 4, 6, 8
IMAGE, BEFORE = ROWS * COLUMNS, TEXT + REFERENCE
ALPHA = 0.4


def kernel(q, k, v, heads, mask=None, **kwargs):
    return scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], attn_mask=mask)[:, 0]


class Attention(torch.nn.Module):
    def forward(self, x, options, cached):
        """Segments of x (1, N, C), each with all that comes before."""
        attention = options.get(
            OVERRIDE, lambda function, *args, **kwargs: function(*args, **kwargs)
        )
        ends = [BEFORE + IMAGE] if cached else [TEXT, BEFORE, BEFORE + IMAGE]
        starts = [BEFORE] if cached else [0, TEXT, BEFORE]
        parts = [
            attention(kernel, x[:, start:end], x[:, :end], x[:, :end].flip(2), 1)
            for start, end in zip(starts, ends, strict=True)
        ]
        return torch.cat(parts, 1)


class Block(torch.nn.Module):
    def __init__(self, chosen):
        super().__init__()
        self.attn = Attention()
        if chosen:
            self.attn.comfy_attention = ChosenAttention(chosen)


class QwenImage21Transformer2DModel(torch.nn.Module):
    patch_size = 2  # of the latent before it was packed

    def __init__(self, chosen=None):
        super().__init__()
        self.transformer_blocks = torch.nn.ModuleList([Block(chosen)])

    def forward(self, x, options, cached):
        return self.transformer_blocks[0].attn(x, options, cached)


QwenImage21Transformer2DModel.__module__ = "comfy.ldm.qwen_image21.model"


def compressed(method, x, cached, image=(ROWS, COLUMNS), chosen=None):
    network = QwenImage21Transformer2DModel(chosen)
    adapter, log = find_family(network).adapter, RunLog()
    call = NetworkCall(
        Compression((Rule(method),)), lambda: DenoisingProgress(0.5), log, adapter.layer_flops
    )
    latent, text = torch.empty(1, 64, *image), torch.empty(1, TEXT, WIDTH)
    conditions = {"ref_latents": [torch.empty(1, 64, 2, 3)]}
    inputs = Inputs(network, latent, text, conditions, {})
    patches = adapter.intercept(adapter.layers(network), call, inputs)
    with replaced_forwards(patches.forwards):
        return network(x, patches.options, cached), log


def pooled(x):
    """IE-KVD by loops: (1, IMAGE, C) -> (nearest, blended)."""
    nearest, blended = [], []
    for row in range(0, ROWS, 2):
        for column in range(0, COLUMNS, 2):
            window = [(row + a) * COLUMNS + column + b for a in (0, 1) for b in (0, 1)]
            nearest.append(x[:, window[3]])
            blended.append(ALPHA * x[:, window[3]] + (1 - ALPHA) * x[:, window].mean(1))
    return torch.stack(nearest, 1), torch.stack(blended, 1)


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, BEFORE + IMAGE, WIDTH, generator=generator)


@pytest.mark.parametrize("cached", [False, True], ids=["whole", "cached prefix"])
def test_keys_of_the_image_are_pooled_and_those_before_it_stay_whole(x, cached):
    out, log = compressed(KVDownsampling(2, alpha=AlphaSchedule(ALPHA, ALPHA)), x, cached)
    before, image, values = x[:, :BEFORE], x[:, BEFORE:], x.flip(2)
    keys = torch.cat((before, pooled(image)[0]), 1)
    short = torch.cat((values[:, :BEFORE], pooled(values[:, BEFORE:])[1]), 1)
    expected = kernel(image, keys, short, 1)
    torch.testing.assert_close(out[:, -IMAGE:], expected)
    plain = QwenImage21Transformer2DModel()(x, {}, cached)
    assert torch.equal(out[:, :-IMAGE], plain[:, :-IMAGE])
    assert log.layers_compressed == 1


@pytest.mark.parametrize("cached", [False, True], ids=["whole", "cached prefix"])
def test_the_image_is_merged_and_restored(x, cached):
    out, _ = compressed(TokenMerging(0.6), x, cached)
    values = x.flip(2)
    grid = TokenGrid(ROWS, COLUMNS)
    plan = TokenMerging(0.6).plan(values[:, BEFORE:], grid, DenoisingProgress(0.5), 0)
    target = plan.target[0].tolist()
    kept = sorted(set(target))
    means = [values[:, [BEFORE + n for n in range(IMAGE) if target[n] == g]].mean(1) for g in kept]
    short = torch.cat((values[:, :BEFORE], torch.stack(means, 1)), 1)
    image = x[:, BEFORE:][:, kept]
    short_out = kernel(image, torch.cat((x[:, :BEFORE], image), 1), short, 1)
    expected = short_out[:, [kept.index(goal) for goal in target]]
    torch.testing.assert_close(out[:, -IMAGE:], expected)


@pytest.mark.parametrize("cached", [False, True], ids=["whole", "cached prefix"])
def test_the_attention_that_a_checkpoint_has_chosen_runs_for_every_segment(x, cached):
    lengths = []

    def chosen(q, k, v, heads, **kwargs):
        lengths.append((q.shape[1], k.shape[1]))
        return kernel(q, k, v, heads, **kwargs)

    compressed(KVDownsampling(2), x, cached, chosen=chosen)
    before = [] if cached else [(TEXT, TEXT), (REFERENCE, BEFORE)]
    assert lengths == [*before, (IMAGE, BEFORE + IMAGE // 4)]


def test_an_image_of_another_size_is_skipped_and_said(x):
    out, log = compressed(KVDownsampling(2), x, False, image=(ROWS, COLUMNS + 1))
    assert torch.equal(out, QwenImage21Transformer2DModel()(x, {}, False))
    assert not log.layers_compressed and any("a sequence of" in reason for reason in log.skipped)

"""Kandinsky 6, which no host here has: a stand-in around the host's own attention of Kandinsky 5.

The video attends to itself, with a reference as one more frame behind it, and so does the sound.
"""

import comfy.ops
import pytest
import torch
from bigain.bigain_core.comfyui.patching.adapter import Inputs
from bigain.bigain_core.comfyui.patching.families import find_family
from bigain.bigain_core.compression.forwards import replaced_forwards
from bigain.bigain_core.compression.network_call import NetworkCall
from bigain.bigain_core.compression.rules import Compression, Rule
from bigain.bigain_core.compression.run_log import RunLog
from bigain.bigain_core.methods import KVDownsampling
from bigain.bigain_core.schedules import AlphaSchedule, DenoisingProgress
from comfy.ldm.flux.layers import EmbedND
from comfy.ldm.kandinsky5.model import SelfAttention
from torch.nn.functional import scaled_dot_product_attention

from tests.host.families.models import fill
from tests.host.recording import OVERRIDE

FRAMES, ROWS, COLUMNS, SOUND, WIDTH = 2, 4, 6, 9, 16
FRAME = ROWS * COLUMNS
VIDEO = FRAMES * FRAME
ALPHA = 0.4


class Part(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attention = SelfAttention(
            WIDTH, WIDTH // 2, {"operations": comfy.ops.disable_weight_init}
        )


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.videoT, self.audioT = Part(), Part()


class Kandinsky6(torch.nn.Module):
    patch_size = (1, 2, 2)

    def __init__(self):
        super().__init__()
        self.visual_blocks = torch.nn.ModuleList([Block()])
        self.turned = EmbedND(WIDTH // 2, 10000, [WIDTH // 2])

    def forward(self, video, sound, options):
        def attended(layer, x):
            positions = torch.arange(x.shape[1])[None, :, None]
            return layer.self_attention(x, self.turned(positions).movedim(1, 2), options)

        (block,) = self.visual_blocks
        return attended(block.videoT, video), attended(block.audioT, sound)


class Kandinsky6NativeAVDiT(Kandinsky6):
    """As the host calls it."""


for kind in (Kandinsky6, Kandinsky6NativeAVDiT):
    kind.__module__ = "comfy.ldm.kandinsky6.model"


@pytest.fixture(scope="module")
def network():
    network = Kandinsky6NativeAVDiT()
    fill(network)
    return network


def attention(calls):
    """An override that notes q, k, v (B, heads, N, D) of each call."""

    def override(function, q, k, v, heads, **kwargs):
        calls.append((q, k, v))
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    return override


def short(x, alpha):
    """Each 2 x 2 of every frame by loops: the nearest one, blended with the mean; the rest whole.

    x (B, heads, N, D)
    """
    kept = []
    for frame in range(FRAMES):
        for row in range(0, ROWS, 2):
            for column in range(0, COLUMNS, 2):
                first = frame * FRAME + row * COLUMNS + column
                window = [first, first + 1, first + COLUMNS, first + COLUMNS + 1]
                kept.append(alpha * x[:, :, window[3]] + (1 - alpha) * x[:, :, window].mean(2))
    return torch.cat((torch.stack(kept, 2), x[:, :, VIDEO:]), 2)


@pytest.mark.parametrize("reference", [0, FRAME], ids=["alone", "with a reference"])
def test_keys_of_the_video_are_pooled_and_the_reference_and_the_sound_stay_whole(
    network, reference
):
    generator = torch.Generator().manual_seed(3)
    video, sound = (
        torch.randn(2, tokens, WIDTH, generator=generator) for tokens in (VIDEO + reference, SOUND)
    )
    calls, log, adapter = [], RunLog(), find_family(network).adapter
    rule = Rule(KVDownsampling(2, alpha=AlphaSchedule(ALPHA, ALPHA)))
    call = NetworkCall(
        Compression((rule,)), lambda: DenoisingProgress(0.5), log, adapter.layer_flops
    )
    given = {"k6_reference": torch.empty(1, 16, 1, 2 * ROWS, 2 * COLUMNS)} if reference else {}
    latent = torch.empty(2, 16, FRAMES, 2 * ROWS, 2 * COLUMNS)
    inputs = Inputs(network, latent, torch.empty(2, 5, 8), given, {OVERRIDE: attention(calls)})
    plain = network(video, sound, inputs.options)
    patches = adapter.intercept(adapter.layers(network), call, inputs)
    with replaced_forwards(patches.forwards):
        found = network(video, sound, patches.options)
    (q, k, v), _, (of_video, short_k, short_v), _ = calls
    torch.testing.assert_close(short_k, short(k, 1))
    torch.testing.assert_close(short_v, short(v, ALPHA))
    assert torch.equal(of_video, q) and torch.equal(found[1], plain[1])
    assert log.layers_compressed == 1 and not torch.equal(found[0], plain[0])

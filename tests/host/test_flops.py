"""Closed-form counts against torch's counter on the host's full-size networks, without weights.

Tensors on the meta device have shapes and no data, so that counting costs no computation.
"""

import re
from dataclasses import asdict, astuple
from functools import cache

import comfy.model_detection
import comfy.model_patcher
import pytest
import torch
from bigain.bigain_core.comfyui.patching.attach import attach, compression_state
from bigain.bigain_core.comfyui.patching.unet import attention_layers
from bigain.bigain_core.compression.presets import PRESETS
from bigain.bigain_core.compression.rules import Compression, Rule
from bigain.bigain_core.compression.run_log import RunLog
from bigain.bigain_core.measure.flops import attention_flops
from bigain.bigain_core.methods import (
    BlockMerging,
    KeyMerging,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Sharing,
    SimilarityPruning,
    TokenMerging,
)
from bigain.bigain_core.placement import Placement
from bigain.bigain_core.tokens import scoring
from comfy.ldm.modules.attention import attention_pytorch
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.outlines.unet_outline import PROMPT_TOKENS, SD_1, SD_2, SD_XL, unet_outline

CONFIGS = {"SD 1.5": SD_1, "SD 2": SD_2, "SD XL": SD_XL}
LATENT = (64, 64)
HYBRID = "Table 9: L-GTM encoder, IE-KVD decoder"
# Those of methods that METHODS lack.
PUBLISHED = [name for name in PRESETS if re.search("Table 3: To|encoder", name)]
METHODS = [
    TokenMerging(0.7), TokenMerging(0.7, sharing=Sharing("network")), BlockMerging(0.5),
    SimilarityPruning(0.7), KVDownsampling(3), KVSelection(), KVCellSelection(), KeyMerging(),
]  # fmt: skip
ENCODER, DECODER = (Placement((stage,), levels=2) for stage in ("encoder", "decoder"))
PAIRS = [
    Compression((Rule(first, ENCODER), Rule(second, DECODER)))
    for first, second in zip(METHODS[::2], METHODS[1::2], strict=True)
]
ATTACHED = {
    **{f"SD 2, {name}": ("SD 2", LATENT, PRESETS[name]) for name in PUBLISHED},
    **{
        "SD 1.5, " + " and ".join(rule.method.name for rule in c.rules): ("SD 1.5", (17, 40), c)
        for c in PAIRS
    },
    f"SD XL, {HYBRID}": ("SD XL", LATENT, PRESETS[HYBRID]),
}


def meta(*shape):
    return torch.empty(shape, device="meta")


def diffusers_keys(config):
    """Keys by which the host finds its own description of a UNet."""
    keys = {"conv_in.weight": meta(config.widths[0], 4, 3, 3)}
    for level, depth in enumerate(config.depths):
        for stack in range(2):
            block = f"down_blocks.{level}.attentions.{stack}.transformer_blocks."
            keys[f"down_blocks.{level}.resnets.{stack}.conv1.weight"] = meta(1)
            for number in range(depth):
                keys[f"{block}{number}.attn2.to_k.weight"] = meta(1, config.context_width)
    if config.vector_width:
        keys["add_embedding.linear_1.weight"] = meta(1, config.vector_width)
    return keys


@cache
def on_meta(name):
    """The host's model of that shape, built from the host's own description."""
    found = comfy.model_detection.model_config_from_diffusers_unet(diffusers_keys(CONFIGS[name]))
    found.set_inference_dtype(torch.float32, None)
    model = found.get_model({}, device="meta")
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def fused(function, *args, **kwargs):
    """Attention that the counter knows, whatever the host would choose on this machine."""
    return attention_pytorch(*args, **kwargs)


@cache
def count(name, latent, context_tokens=PROMPT_TOKENS, rules=()):
    """FLOPs of a network call behind the wrappers that nodes install, and the log of the call."""
    patcher, config = on_meta(name), CONFIGS[name]
    for rule in rules:
        patcher = attach(patcher, rule)
    options = {
        **patcher.model_options["transformer_options"],
        "optimized_attention_override": fused,
    }
    context = meta(1, context_tokens, config.context_width)
    vector = meta(1, config.vector_width) if config.vector_width else None

    def call(x, sigma, concat, context, control, transformer_options):
        network, steps = patcher.model.diffusion_model, sigma.to("meta")
        network(x, steps, context, vector, transformer_options=transformer_options)

    wrappers = patcher.get_all_wrappers(WrappersMP.APPLY_MODEL)
    executor = WrapperExecutor.new_class_executor(call, patcher.model, wrappers)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        executor.execute(meta(1, 4, *latent), torch.ones(1), None, context, None, options)
    state = compression_state(patcher)
    return counter.get_total_flops(), state.log if state else RunLog()


@pytest.mark.parametrize(
    ("name", "latent", "context_tokens"),
    [
        ("SD 1.5", (17, 40), PROMPT_TOKENS),
        ("SD 2", LATENT, 2 * PROMPT_TOKENS),
    ],
)
def test_a_plain_call_equals_the_count_of_torch(name, latent, context_tokens):
    counted, _ = count(name, latent, context_tokens)
    assert unet_outline(CONFIGS[name], *latent, context_tokens).flops == counted


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_are_those_of_the_network(name):
    found = attention_layers(on_meta(name).model.diffusion_model)
    expected = unet_outline(CONFIGS[name], *LATENT).layers
    assert [(astuple(layer.layer_id), layer.width) for layer in expected] == [
        (astuple(layer_id), block.attn1.to_q.in_features) for layer_id, block in found
    ]


@pytest.fixture
def laplacian_as_convolution(monkeypatch):
    """The Laplacian as the paper computes and counts it, a depth-wise convolution.

    Ours is a sum of shifted copies, in which torch counts no operation.
    """

    def convolved(image, padding, combine):
        channels = image.shape[-1]
        kernel = meta(channels, 1, 3, 3)
        summed = functional.conv2d(image.movedim(-1, 1), kernel, padding=1, groups=channels)
        return combine(image, summed.movedim(1, -1))

    monkeypatch.setattr(scoring, "_with_neighbours", convolved)


def plain_records(log):
    """Outlines know the pack by another name than the host does, so classes do not compare."""
    return {astuple(layer_id): asdict(record) for layer_id, record in log.layers.items()}


@pytest.mark.parametrize("case", ATTACHED)
@pytest.mark.usefixtures("laplacian_as_convolution")
def test_an_attached_method_equals_the_count_of_torch(case):
    name, latent, compression = ATTACHED[case]
    outline = unet_outline(CONFIGS[name], *latent)
    counted, log = count(name, latent, rules=compression.rules)
    assert log.layers_compressed > 0
    predicted = outline.log(compression)
    assert plain_records(log) == plain_records(predicted)
    assert log.skipped == predicted.skipped
    assert outline.flops - log.flops_saved == counted


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.usefixtures("laplacian_as_convolution")
def test_the_work_of_the_network_is_counted_but_for_attention_to_text(name):
    """Counted while a compressed call runs: what the plain call would have cost."""
    outline = unet_outline(CONFIGS[name], *LATENT)
    _, log = count(name, LATENT, rules=PRESETS[HYBRID].rules)
    text = sum(
        attention_flops(layer.width, layer.grid.tokens, PROMPT_TOKENS) for layer in outline.layers
    )
    assert log.networks == {(4, *LATENT): (outline.flops - text, 1)}

"""Closed-form counts against torch's counter on the host's full-size networks, without weights.

Tensors on the meta device have shapes and no data, so that counting costs no computation.
"""

import comfy.model_detection
import comfy.model_patcher
import pytest
import torch
from bigain.bigain_core.comfyui.attach import attach, attached_to
from bigain.bigain_core.comfyui.unet import sites
from bigain.bigain_core.compression import Compression, Rule
from bigain.bigain_core.flops import laplacian_flops
from bigain.bigain_core.methods import KVDownsampling, TokenMerging
from bigain.bigain_core.models.unet_outline import PROMPT_TOKENS, SD_1, SD_2, SD_XL, unet_outline
from bigain.bigain_core.placement import Placement
from comfy.ldm.modules.attention import attention_pytorch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch.utils.flop_counter import FlopCounterMode

CONFIGS = {"SD 1.5": SD_1, "SD 2": SD_2, "SD XL": SD_XL}
LATENT = (64, 64)


def meta(*shape):
    return torch.empty(shape, device="meta")


def diffusers_keys(config):
    """The keys by which the host recognises a UNet of this shape and looks up its full description."""
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


@pytest.fixture(scope="module", params=CONFIGS)
def described(request):
    """(our description, the host's model of that shape on the meta device)"""
    config = CONFIGS[request.param]
    found = comfy.model_detection.model_config_from_diffusers_unet(diffusers_keys(config))
    found.set_inference_dtype(torch.float32, None)
    model = found.get_model({}, device="meta")
    device = torch.device("cpu")
    return config, comfy.model_patcher.ModelPatcher(model, device, device)


def fused(function, *args, **kwargs):
    """Attention that the counter knows, whatever the host would choose on this machine."""
    return attention_pytorch(*args, **kwargs)


def count(patcher, config, latent, context_tokens=PROMPT_TOKENS):
    """FLOPs of a network call behind the wrappers that `attach` installs; sigma holds a number."""
    network = patcher.model.diffusion_model
    options = {**patcher.model_options["transformer_options"], "optimized_attention_override": fused}
    vector = meta(1, config.vector_width) if config.vector_width else None
    context = meta(1, context_tokens, config.context_width)

    def call(x, sigma, concat, context, control, transformer_options):
        network(x, sigma.to("meta"), context, vector, transformer_options=transformer_options)

    wrappers = get_all_wrappers(WrappersMP.APPLY_MODEL, options)
    executor = WrapperExecutor.new_class_executor(call, patcher.model, wrappers)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        executor.execute(meta(1, 4, *latent), torch.ones(1), None, context, None, options)
    return counter.get_total_flops()


@pytest.mark.parametrize("latent", [LATENT, (17, 40)])
def test_a_plain_call_equals_the_count_of_torch(described, latent):
    config, patcher = described
    assert unet_outline(config, *latent).flops == count(patcher, config, latent)


def test_a_longer_prompt_equals_the_count_of_torch(described):
    config, patcher = described
    longer = 2 * PROMPT_TOKENS
    assert unet_outline(config, *LATENT, longer).flops == count(patcher, config, LATENT, longer)


def test_layers_are_those_of_the_network(described):
    config, patcher = described
    found = sites(patcher.model.diffusion_model)
    assert [(layer.site, layer.width) for layer in unet_outline(config, *LATENT).layers] == [
        (site, block.attn1.to_q.in_features) for site, block in found
    ]


@pytest.mark.parametrize(
    "method",
    [TokenMerging(0.7), TokenMerging(0.7, "random"), KVDownsampling(2)],
    ids=lambda method: method.name,
)
@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("latent", [LATENT, (17, 40)])
def test_an_attached_method_equals_the_count_of_torch(described, method, levels, latent):
    config, patcher = described
    rule = Rule(method, Placement(levels=levels))
    attached = attach(patcher, rule)
    outline = unet_outline(config, *latent)
    log = outline.log(Compression((rule,)))
    # Our Laplacian is a sum of shifted differences, in which the counter sees no convolution; the
    # paper's, which we count like it, is one.
    scored = [layer for layer in outline.layers if log.sites[layer.site].method.startswith("L-GTM")]
    unseen = sum(laplacian_flops(layer.width, layer.grid.tokens) for layer in scored)
    counted = count(attached, config, latent)
    assert outline.flops - log.flops_saved == counted + unseen
    assert attached_to(attached).log.sites == log.sites

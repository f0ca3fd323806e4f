"""Small random models of the host's own classes."""

import dataclasses

import comfy.model_patcher
import comfy.supported_models
import torch
from bigain.bigain_core.comfyui.dit_model import DiTModel, DiTModelConfig
from bigain.bigain_core.models.dit import DiTConfig

CPU = torch.device("cpu")


def fill(network, seed=0):
    """Random weights, scaled by fan-in, and small random biases; norms stay at one."""
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    tables = ("pos_embed", "y_embedding")  # weights that the host keeps as buffers
    buffers = [(name, table) for name, table in network.named_buffers() if name.endswith(tables)]
    for name, weight in [*network.named_parameters(), *buffers]:
        if weight.ndim < 2 and not name.endswith("bias"):
            weight.data.fill_(1.0)
            continue
        scale = weight[0].numel() ** -0.5 if weight.ndim >= 2 else 0.1
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * scale)


def patcher(model):
    fill(model.diffusion_model)
    model.diffusion_model.eval()
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def build(name, config, state=None, fixed=None, dtype=torch.float32, cast_to=None):
    """A model by the host's configuration `name`.

    `state` is what the configuration looks for in a checkpoint, `fixed` replaces entries of the
    network's configuration that are the same for all checkpoints of the family. Weights are of
    `dtype` and computed with as `cast_to`.
    """
    family = getattr(comfy.supported_models, name)
    if fixed is not None:
        entries = {"unet_extra_config": {**family.unet_extra_config, **fixed}}
        family = type(family.__name__, (family,), entries)
    made = family(dict(config))
    made.set_inference_dtype(dtype, cast_to)
    return patcher(made.get_model(state or {}, "", device=CPU))


def known(parameters, config):
    """The entries of a network's configuration that this version of the host has."""
    fields = {field.name for field in dataclasses.fields(parameters)}
    return {key: config[key] for key in config if key in fields | {"image_model"}}


def own_dit(classes=5):
    config = DiTModelConfig(DiTConfig(8, 2, 4, 64, 2, 1, classes, learn_sigma=True))
    config.set_inference_dtype(torch.float32, None)
    return patcher(DiTModel(config, ()))

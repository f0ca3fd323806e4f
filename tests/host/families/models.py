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
    tables = ("pos_embed", "y_embedding", "rope.inv_freq")  # weights that the host keeps as buffers
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


class Network:
    """A small network of the host's configuration `family`; called, it builds a random model.

    `state` is what the configuration looks for in a checkpoint, `fixed` replaces entries that are
    the same for all checkpoints of the family. Of the other entries only those are used that are
    fields of `params`, where given: older hosts know fewer.
    """

    def __init__(self, family, fixed=None, state=None, params=None, **config):
        self.family, self.fixed, self.state, self.params = family, fixed, state, params
        self.config = config

    def but(self, family=None, **changes):
        """Another network with changed entries."""
        same = {"fixed": self.fixed, "state": self.state, "params": self.params, **self.config}
        return type(self)(family or self.family, **(same | changes))

    @property
    def missing(self):
        """Whether this host lacks the family."""
        return not hasattr(comfy.supported_models, self.family)

    def __call__(self, dtype=torch.float32, cast_to=None):
        """Weights are of `dtype` and computed with as `cast_to`."""
        family, config = getattr(comfy.supported_models, self.family), self.config
        if self.fixed:
            entries = {"unet_extra_config": {**family.unet_extra_config, **self.fixed}}
            family = type(family.__name__, (family,), entries)
        if self.params:
            fields = {field.name for field in dataclasses.fields(self.params)}
            config = {key: config[key] for key in config if key in fields}
        made = family(dict(config))
        made.set_inference_dtype(dtype, cast_to)
        return patcher(made.get_model(self.state or {}, "", device=CPU))


def own_dit(classes=5):
    config = DiTModelConfig(DiTConfig(8, 2, 4, 64, 2, 1, classes, learn_sigma=True))
    config.set_inference_dtype(torch.float32, None)
    return patcher(DiTModel(config, ()))

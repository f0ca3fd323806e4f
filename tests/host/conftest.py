"""Small random models of the host's own classes, and a sampling run in miniature."""

from functools import cache

import comfy.lora
import comfy.model_base
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import folder_paths
import pytest
import torch
from bigain.bigain_core.models.checkpoint import BUNDLED_MODEL
from bigain.nodes.dit import BiGainDiTLabels
from comfy.model_base import ModelType
from safetensors.torch import save_file

from tests.host.side_by_side import Run

CPU = torch.device("cpu")
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_checkpoint": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "adm_in_channels": None,
    "context_dim": 24,
    "use_linear_in_transformer": False,
}
XL = {
    "num_classes": "sequential",
    "adm_in_channels": 1280 + 6 * 256,
    "use_linear_in_transformer": True,
    # As in the real one: no attention at the finest resolution.
    "channel_mult": [1, 1, 2],
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
}


def narrow_heads(config):
    """The family's configuration with heads that fit a model of 32 channels."""
    extra = {**config.unet_extra_config, "num_heads": -1, "num_head_channels": 16}
    return type(config.__name__, (config,), {"unet_extra_config": extra})


def fill(network, seed=0):
    """Random weights for every parameter, scaled by fan-in; norms stay at one."""
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim >= 2:
            scale = parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        else:
            parameter.copy_(torch.ones(parameter.shape))


def patcher(model):
    fill(model.diffusion_model)
    model.diffusion_model.eval()
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def unet(config, kind, changes=(), dtype=torch.float32, cast_to=None, **options):
    config = narrow_heads(config)({**UNET, **dict(changes)})
    config.set_inference_dtype(dtype, cast_to)
    return patcher(kind(config, device=CPU, **options))


def sd15(**dtypes):
    return unet(comfy.supported_models.SD15, comfy.model_base.BaseModel, **dtypes)


def sd2v():
    changes = {"use_linear_in_transformer": True}
    velocity = ModelType.V_PREDICTION
    return unet(
        comfy.supported_models.SD20, comfy.model_base.BaseModel, changes, model_type=velocity
    )


def sdxl():
    return unet(comfy.supported_models.SDXL, comfy.model_base.SDXL, XL)


@pytest.fixture(scope="session")
def dit_checkpoint(tmp_path_factory):
    """A small random DiT file: 8 x 8 latents of 4 channels, 5 named classes."""
    from bigain.bigain_core.models.dit import DiT, DiTConfig

    config = DiTConfig(8, 2, 4, 64, 2, 1, 5, learn_sigma=True)
    network = DiT(config)
    fill(network)
    path = tmp_path_factory.mktemp("dit") / "tiny_dit.safetensors"
    save_file(network.state_dict(), path, metadata={"class_names": "ant\nbee\ncat\ndog\neel"})
    return path


@pytest.fixture(scope="session")
def models(dit_checkpoint):
    from bigain.bigain_core.comfyui.dit import load_dit_model

    return {
        "sd15": sd15(),
        "sd2v": sd2v(),
        "sdxl": sdxl(),
        "dit": load_dit_model(dit_checkpoint),
    }


@pytest.fixture(scope="session")
def conditioning():
    """Conditionings of a model by its name; `number` tells them apart."""

    def make(name, model, number=0):
        if name == "dit":
            return BiGainDiTLabels.execute(model, str(number)).args[0]
        generator = torch.Generator().manual_seed(100 + number)
        extra = (
            {"pooled_output": torch.randn(1, 1280, generator=generator)} if name == "sdxl" else {}
        )
        return [[torch.randn(1, 6, 24, generator=generator), extra]]

    return make


@pytest.fixture(scope="session")
def sample(conditioning):
    """A guided Euler run of a few steps: (B, 4, H, W), float."""

    def run(name, model, size=(16, 16), batch=1, steps=3, sampler="euler"):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(conditioning(name, model), conditioning(name, model, 1))
        guider.set_cfg(3.0)
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
        generator = torch.Generator().manual_seed(7)
        noise = torch.randn(batch, 4, *size, generator=generator)
        chosen = comfy.samplers.sampler_object(sampler)
        return guider.sample(
            noise, torch.zeros_like(noise), chosen, sigmas, disable_pbar=True, seed=7
        )

    return run


LORA = "small_lora.safetensors"


@pytest.fixture(scope="session")
def lora_file(models, tmp_path_factory):
    """A random LoRA of rank 2 for the attention of "sd15", in the form of kohya's scripts: LORA."""
    generator = torch.Generator().manual_seed(5)
    network = models["sd15"].model
    parts = {}
    for name, key in comfy.lora.model_lora_keys_unet(network, {}).items():
        if name.startswith("lora_unet_") and "_attentions_" in name and "_attn" in name:
            rows, columns = network.state_dict()[key].shape
            up, down = (torch.randn(n, 2, generator=generator) for n in (rows, columns))
            parts[f"{name}.lora_up.weight"] = up / rows**0.5
            parts[f"{name}.lora_down.weight"] = down.T.contiguous()
            parts[f"{name}.alpha"] = torch.tensor(1.0)
    folder = tmp_path_factory.mktemp("loras")
    save_file(parts, folder / LORA)
    folder_paths.add_model_folder_path("loras", str(folder))


@pytest.fixture
def own_sd15():
    """For a test that leaves traces on the network."""
    return sd15()


@pytest.fixture(scope="session")
def start(models, conditioning):
    """A run of a model by its name, or of a given one, as it is before a scenario changes it."""

    @cache
    def make(name="sd15", size=(12, 16), batch=1, model=None):
        model = model or models[name]
        texts = conditioning(name, model), conditioning(name, model, 1)
        return Run(model, *texts, {"samples": torch.zeros(batch, 4, *size)})

    return make


@pytest.fixture(scope="session")
def bundled():
    from bigain.bigain_core.comfyui.dit import load_dit_model

    return load_dit_model(BUNDLED_MODEL)

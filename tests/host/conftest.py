"""Small random models of the host's own classes, and a sampling run in miniature."""

import pytest
import torch
from bigain.bigain_core.models.checkpoint import BUNDLED_MODEL
from bigain.nodes.dit import BiGainDiTLabels

from tests.host.families import NAMED, fill, guided


@pytest.fixture(scope="session")
def dit_checkpoint(tmp_path_factory):
    """A small random DiT file: 8 x 8 latents of 4 channels, 5 named classes."""
    from bigain.bigain_core.models.dit import DiT, DiTConfig
    from safetensors.torch import save_file

    config = DiTConfig(8, 2, 4, 64, 2, 1, 5, learn_sigma=True)
    network = DiT(config)
    fill(network)
    path = tmp_path_factory.mktemp("dit") / "tiny_dit.safetensors"
    save_file(network.state_dict(), path, metadata={"class_names": "ant\nbee\ncat\ndog\neel"})
    return path


@pytest.fixture(scope="session")
def models(dit_checkpoint):
    from bigain.bigain_core.comfyui.dit import load_dit_model

    unets = {name: NAMED[name].model for name in ("sd15", "sd2v", "sdxl")}
    return unets | {"dit": load_dit_model(dit_checkpoint)}


@pytest.fixture(scope="session")
def conditioning():
    """Conditionings of a model by its name; `number` tells them apart."""

    def make(name, model, number=0):
        if name == "dit":
            return BiGainDiTLabels.execute(model, str(number)).args[0]
        return NAMED[name].conditioning(number)

    return make


@pytest.fixture(scope="session")
def sample(conditioning):
    """A guided Euler run of a few steps: (B, 4, H, W), float."""

    def run(name, model, size=(16, 16), batch=1, steps=3, sampler="euler"):
        noise = torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(7))
        prompts = (conditioning(name, model, number) for number in (0, 1))
        return guided(model, noise, *prompts, steps=steps, sampler=sampler)

    return run


@pytest.fixture(scope="session")
def bundled():
    from bigain.bigain_core.comfyui.dit import load_dit_model

    return load_dit_model(BUNDLED_MODEL)

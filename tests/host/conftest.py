"""Small random models of the host's own classes, and a sampling run in miniature."""

import re
from functools import cache

import comfy.lora
import comfy.sd
import folder_paths
import pytest
import torch
from bigain.nodes.dit_nodes import BiGainDiTLabels
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.data import CLASS_NAMES, held_out_shapes
from benchmarks.dit_runner import SMALL_DIT
from tests.host.drawn import LABELS
from tests.host.families import NAMED
from tests.host.families.case import Case, guided
from tests.host.families.models import fill
from tests.host.families.unets import SD15
from tests.host.side_by_side import Run


@pytest.fixture(autouse=True)
def recorded(request, record_property):
    """What docs/compatibility.md calls the case of a test."""
    case = getattr(request.node, "callspec", None) and request.node.callspec.params.get("case")
    if isinstance(case, Case):
        record_property("case", case.name)
        record_property("title", case.title)


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
    from bigain.bigain_core.comfyui.dit_model import load_dit_model

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
    return SD15()


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
    from bigain.bigain_core.comfyui.dit_model import load_dit_model

    return load_dit_model(SMALL_DIT)


@pytest.fixture(scope="session")
def shallow_file(tmp_path_factory):
    """The small DiT cut to its first block, where any results will do."""
    with safe_open(SMALL_DIT, "pt") as file:
        kept = [key for key in file.keys() if not re.match(r"blocks\.[1-9]", key)]
        weights, metadata = {key: file.get_tensor(key) for key in kept}, file.metadata()
    path = tmp_path_factory.mktemp("shallow") / SMALL_DIT.name
    save_file(weights, path, metadata)
    return path


@pytest.fixture(scope="session")
def shallow(shallow_file):
    from bigain.bigain_core.comfyui.dit_model import load_dit_model

    return load_dit_model(shallow_file)


@pytest.fixture(scope="session")
def vae():
    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})


@pytest.fixture(scope="session")
def drawn_prompts(bundled):
    return BiGainDiTLabels.execute(bundled, "\n".join(LABELS)).args[2]


@pytest.fixture(scope="session")
def drawings():
    """Two images of each label: (6, 32, 32, 3) in [0, 1], and their labels."""
    drawn = held_out_shapes(60)
    chosen = [
        (CLASS_NAMES[k], pixels.movedim(0, -1) / 2 + 0.5)
        for pixels, k in zip(drawn.pixels, drawn.labels.tolist(), strict=True)
        if CLASS_NAMES[k] in LABELS
    ]
    return torch.stack([pixels for _, pixels in chosen]), [label for label, _ in chosen]

"""With weights that are patched, merged, stored in another type, or not in memory as a whole."""

from functools import cache, partial

import comfy.lora
import comfy_extras.nodes_model_merging
import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from safetensors.torch import load_file
from torch.nn import functional

import nodes
from tests.host.conftest import LORA
from tests.host.families.models import fill
from tests.host.families.unets import SD15
from tests.host.side_by_side import (
    BOTH,
    OURS,
    Scenario,
    assert_same_image,
    check,
    check_ours,
    instance_forwards,
    patched_by,
)


@cache
def another_sd15():
    model = SD15()
    fill(model.model.diffusion_model, seed=1)
    return model


MERGE_SIMPLE = comfy_extras.nodes_model_merging.ModelMergeSimple
LORA_LOADER = patched_by(nodes.LoraLoaderModelOnly, LORA, 1.0)

SCENARIOS = {
    "LoRA": Scenario(LORA_LOADER),
    "two LoRAs": Scenario(
        lambda run: patched_by(nodes.LoraLoaderModelOnly, LORA, -0.5)(LORA_LOADER(run))
    ),
    "merged models": Scenario(lambda run: patched_by(MERGE_SIMPLE, another_sd15(), 0.5)(run)),
}


@pytest.mark.usefixtures("lora_file")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_act(start, scenario):
    check(SCENARIOS[scenario], start())


class Int8Linear(torch.nn.Module):
    """Whole numbers and a scale per row, as GGUF loaders keep weights; not to be read directly."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("stored", (linear.weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("offset", linear.bias)

    @property
    def weight(self):
        raise RuntimeError("the weight of a quantised layer was read")

    def forward(self, x):
        return functional.linear(x, (self.stored * self.scale).to(x.dtype), self.offset)


def gguf():
    model = SD15()
    network = model.model.diffusion_model
    for name, module in list(network.named_modules()):
        if isinstance(module, torch.nn.Linear):
            network.set_submodule(name, Int8Linear(module))
    return model


HALF, BRAIN, FLOAT8 = torch.float16, torch.bfloat16, torch.float8_e4m3fn
# How to make a model, and how far two ways to write the same pooling may be apart in it.
WEIGHTS = {
    "fp16 weights": (partial(SD15, dtype=HALF, cast_to=torch.float32), 1e-4),
    "bf16 weights": (partial(SD15, dtype=BRAIN, cast_to=torch.float32), 1e-4),
    "fp8 weights": (partial(SD15, dtype=FLOAT8, cast_to=torch.float32), 1e-4),
    "fp8 weights, bf16 computation": (partial(SD15, dtype=FLOAT8, cast_to=BRAIN), 0.1),
    "bf16 computation": (partial(SD15, dtype=BRAIN), 0.1),
    "fp16 computation": (partial(SD15, dtype=HALF), 0.1),
    "GGUF": (gguf, 1e-4),
}


@pytest.fixture(scope="module")
def stored():
    return cache(lambda name: WEIGHTS[name][0]())


@pytest.mark.parametrize("name", WEIGHTS)
def test_ours_acts(start, stored, name):
    run = start(model=stored(name))
    as_it_is = Scenario(lambda run: run)
    image = check_ours(as_it_is, run, BOTH, tolerance=WEIGHTS[name][1])
    assert image.dtype == torch.float32, "as the host hands it on"
    assert not torch.equal(image, start().with_model(BOTH.on).image())


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.usefixtures("lora_file")
def test_a_lora_gives_the_image_of_a_model_that_has_it_in_its_weights(start, ours):
    baked = SD15()
    weights = baked.model.state_dict()
    lora = load_file(folder_paths.get_full_path("loras", LORA))
    keys = comfy.lora.model_lora_keys_unet(baked.model, {})
    for name in {part.split(".")[0] for part in lora}:
        up, down = lora[f"{name}.lora_up.weight"], lora[f"{name}.lora_down.weight"]
        weights[keys[name]] += up @ down / 2  # alpha 1, rank 2
    expected = start(model=baked).with_model(OURS[ours].on).image()
    image = LORA_LOADER(start()).with_model(OURS[ours].on).image()
    assert_same_image(image, expected)


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.usefixtures("lora_file")
def test_weights_that_stay_outside_the_memory_of_the_device(
    start, own_sd15, monkeypatch, ours, lora
):
    """Cast layer by layer in each call, with the LoRA added on the way: low VRAM mode."""
    add = LORA_LOADER if lora else lambda run: run
    expected = add(start()).with_model(OURS[ours].on).image()
    load = ModelPatcher.load

    def load_a_little(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False,
                      full_load=False):  # fmt: skip
        return load(self, device_to, 100_000, force_patch_weights, full_load=False)

    monkeypatch.setattr(ModelPatcher, "load", load_a_little)
    run = add(start(model=own_sd15)).with_model(OURS[ours].on)
    assert_same_image(run.image(), expected)
    network = own_sd15.model.diffusion_model
    layer = network.middle_block[1].transformer_blocks[0].attn1.to_q
    assert hasattr(layer, "prev_comfy_cast_weights"), "low VRAM mode"
    assert bool(layer.weight_function) == lora
    assert not instance_forwards(run.model)

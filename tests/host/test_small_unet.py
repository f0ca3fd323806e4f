"""The small UNet: a model of the host like any other, prompted with words."""

import argparse

import pytest
import torch
from bigain.bigain_core.comfyui.classifying.latent_classifier import classify_latents
from bigain.bigain_core.comfyui.classifying.prompts import Prompts
from bigain.bigain_core.comfyui.patching.unet import attention_layers
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors import safe_open

from benchmarks.data import CLASS_NAMES, SHAPE_CLASSES, Images, held_out_digits, held_out_shapes
from benchmarks.noise_schedules import alphas_cumprod
from benchmarks.small_unet import CONFIG, WEIGHTS, WORD_TABLE, WORD_WIDTH, WORDS, load
from benchmarks.train_unet import RECIPE, STAGES, export, fresh_model
from benchmarks.training import NO_PROMPT, batch_loss
from bigain_core.classification import TrialPlan

TOY = {
    **CONFIG,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [0, 1],
}


@pytest.fixture(scope="module")
def small():
    return load()


@pytest.fixture
def random_unet():
    """With the bundled shape; no layer is left at zero, so everything has a part in the result."""
    torch.manual_seed(0)
    model = fresh_model()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model.requires_grad_(False)


def test_the_file_is_small_and_has_the_words(small):
    assert WEIGHTS.stat().st_size <= 4e6
    with safe_open(WEIGHTS, framework="pt") as file:
        assert file.get_tensor(WORD_TABLE).shape == (len(WORDS), WORD_WIDTH)
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}


def test_it_is_the_hosts_unet_with_fine_self_attention_in_encoder_and_decoder(small):
    network = small[0].model.diffusion_model
    assert type(network) is UNetModel
    finest = [layer_id.stage for layer_id, _ in attention_layers(network) if layer_id.level == 1]
    assert finest == ["encoder", "decoder", "decoder"]


def test_a_prompt_is_a_row_for_each_word(small):
    _, encode = small
    names = ["row-striped disc", "row-striped ring", "disc", ""]
    found = [conditioning[0][0] for conditioning in encode(names)]
    assert [tuple(rows.shape) for rows in found] == [(1, n, WORD_WIDTH) for n in (2, 2, 1, 1)]
    assert torch.equal(found[0][0, 0], found[1][0, 0])
    assert not torch.equal(found[0][0, 1], found[1][0, 1])
    assert torch.equal(found[0][0, 1], found[2][0, 0])
    distinct = {tuple(c[0][0].flatten().tolist()) for c in encode(CLASS_NAMES)}
    assert len(distinct) == len(CLASS_NAMES)


def test_a_word_that_it_does_not_know_is_named(small):
    with pytest.raises(ValueError, match=r"expected words of plain, .*digit.*, got 'dotted'"):
        small[1](["plain disc", "dotted disc"])


def test_the_host_predicts_what_was_trained(random_unet, tmp_path):
    """Scaling, timesteps, prompts and file against the network as training calls it."""
    export(random_unet, tmp_path / "unet.safetensors")
    for parameter in random_unet.parameters():
        parameter.copy_(parameter.half())
    patcher, encode = load(tmp_path / "unet.safetensors")
    names = [CLASS_NAMES[3], CLASS_NAMES[35], ""]
    labels = torch.tensor([3, 35, NO_PROMPT])
    clean, noise = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    signal = alphas_cumprod("scaled-linear")
    for timestep in (20, 700):
        level = signal[timestep]
        noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
        expected = random_unet(noisy, torch.full((3,), timestep), labels)
        sigma = ((1 - level) / level).sqrt()
        x = noisy / level.sqrt()
        for k, conditioning in enumerate(encode(names)):
            denoised = patcher.model.apply_model(
                x[k : k + 1], sigma[None], c_crossattn=conditioning[0][0]
            )
            found = (x[k : k + 1] - denoised) / sigma
            torch.testing.assert_close(found, expected[k : k + 1], atol=2e-3, rtol=1e-3)


def test_no_prompt_is_what_dropped_prompts_were(random_unet, tmp_path):
    """Training gives the empty word twice, the host once: attention sees no difference."""
    x, timesteps = torch.randn(1, 3, 32, 32), torch.tensor([500])
    twice = random_unet(x, timesteps, torch.tensor([NO_PROMPT]))
    once = random_unet.unet(x, timesteps, random_unet.words(torch.tensor([[0]])))
    torch.testing.assert_close(twice, once, atol=1e-5, rtol=1e-4)


def test_training_lowers_the_loss_of_a_toy():
    torch.manual_seed(0)
    model, args = fresh_model(TOY), argparse.Namespace(seed=0, batch=4, device="cpu", bf16=False)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    signal = alphas_cumprod(RECIPE.schedule)

    def loss(step):
        return batch_loss(model, STAGES[0], signal, args, step)

    with torch.no_grad():
        before = loss(10**6).item()
    for step in range(12):
        optimiser.zero_grad()
        loss(step).backward()
        optimiser.step()
    with torch.no_grad():
        assert loss(10**6).item() < 0.8 * before
    assert all(parameter.grad is not None for parameter in model.parameters())


def every_third(images, first):
    """Seven images of seven classes that share shapes and textures."""
    labels = images.labels.tolist()
    chosen = torch.tensor([labels.index(first + 3 * k) for k in range(7)])
    return Images(images.pixels[chosen], images.labels[chosen])


def digits():
    images = held_out_digits()
    chosen = torch.tensor([images.labels.tolist().index(SHAPE_CLASSES + k) for k in range(7)])
    return Images(images.pixels[chosen], images.labels[chosen])


KINDS = {
    "shapes and textures": lambda: every_third(held_out_shapes(SHAPE_CLASSES), 0),
    "digits": digits,
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_recognises_held_out_images(small, kind):
    """Seven images among seven names: guessing gets six right once in 19 000 times."""
    model, encode = small
    images = KINDS[kind]()
    names = tuple(CLASS_NAMES[label] for label in images.labels.tolist())
    prompts = Prompts(names, tuple(encode(names)))
    plan = TrialPlan((1,), (1,))
    found = classify_latents(model, images.pixels, prompts, plan)
    assert sum(best == k for k, best in enumerate(found.best)) >= 6

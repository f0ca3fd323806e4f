"""Next to what texts and latents carry: control, areas, masks, images, boxes, hooks."""

from functools import cache
from types import SimpleNamespace

import comfy.cldm.cldm
import comfy.controlnet
import comfy.gligen
import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import comfy_extras.nodes_differential_diffusion
import comfy_extras.nodes_hooks
import comfy_extras.nodes_ip2p
import comfy_extras.nodes_video_model
import pytest
import torch
from torch.nn import functional

import nodes
from tests.host.conftest import LORA
from tests.host.families import NAMED
from tests.host.families.models import CPU, fill, patcher
from tests.host.families.unets import NARROW_HEADS, SD2, UNET
from tests.host.side_by_side import Scenario, check, on_model, outputs

pytestmark = [  # of the host's unCLIP
    pytest.mark.filterwarnings("ignore:To copy construct"),
    pytest.mark.filterwarnings("ignore:__array_wrap__"),
]
HEIGHT, WIDTH = 96, 128  # of the image: 12 x 16 in the latent


def random(*shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def pixels():
    """(1, H, W, 3), as an image loader gives it."""
    return random(1, HEIGHT, WIDTH, 3, seed=1)


def left_part():
    """(1, H, W), one in the left five eighths: the mask of an odd number of latent pixels."""
    return (torch.arange(WIDTH) < WIDTH * 5 // 8).float().expand(1, HEIGHT, WIDTH)


def on_positive(node, *args, **kwargs):
    """The positive text through a host node."""
    return lambda run: run.but(positive=outputs(node, run.positive, *args, **kwargs)[0])


def another_text(run):
    return [[-tokens, extra] for tokens, extra in run.positive]


def beside_another_text(change):
    """The positive text changed, and another one for the whole image."""

    def add(run):
        texts = change(run).positive, another_text(run)
        return run.but(positive=outputs(nodes.ConditioningCombine, *texts)[0])

    return add


class AveragingVAE:
    def encode(self, pixels):
        colours = functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat((colours, colours.mean(1, keepdim=True)), dim=1)


@cache
def control_net():
    others = ("out_channels", "transformer_depth_output")
    config = {key: value for key, value in UNET.items() if key not in others}
    network = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, num_head_channels=16, dtype=torch.float32
    )
    fill(network.eval())
    return comfy.controlnet.ControlNet(network, load_device=CPU)


class Adapter(torch.nn.Module):
    """Features for the second block of the encoder; the host takes them from the end."""

    unshuffle_amount, input_channels = 8, 3

    def __init__(self):
        super().__init__()
        self.projection = torch.nn.Conv2d(3 * 64, 32, 1)

    def forward(self, image):
        return {"input": [self.projection(functional.pixel_unshuffle(image, 8)), None]}


@cache
def t2i_adapter():
    network = Adapter()
    fill(network)
    return comfy.controlnet.T2IAdapter(network, 3, 8, "nearest-exact", device=CPU)


def controlled_by(control, end=1.0):
    def add(run):
        positive, negative = outputs(
            nodes.ControlNetApplyAdvanced, run.positive, run.negative, control(), pixels(),
            1.0, 0.0, end,
        )  # fmt: skip
        return run.but(positive=positive, negative=negative)

    return add


def regions(run):
    """A text for the left of the image and one for the right, each with its mask."""
    left = outputs(nodes.ConditioningSetMask, run.positive, left_part(), "default", 1.0)[0]
    other = another_text(run)
    right = outputs(nodes.ConditioningSetMask, other, 1 - left_part(), "default", 1.0)[0]
    return run.but(positive=outputs(nodes.ConditioningCombine, left, right)[0])


def default_text(run):
    """One for what the masks of the others leave over."""
    extra = comfy_extras.nodes_hooks
    masked = outputs(nodes.ConditioningSetMask, run.positive, left_part(), "default", 1.0)[0]
    both = outputs(extra.ConditioningSetDefaultAndCombine, masked, another_text(run))[0]
    return run.but(positive=both)


def two_halves_in_time(run):
    early = outputs(nodes.ConditioningSetTimestepRange, run.positive, 0.0, 0.5)[0]
    late = outputs(nodes.ConditioningSetTimestepRange, another_text(run), 0.5, 1.0)[0]
    return run.but(positive=outputs(nodes.ConditioningCombine, early, late)[0])


def longer_text(run):
    longer = outputs(nodes.ConditioningConcat, run.positive, another_text(run))[0]
    return run.but(positive=longer)


def attention_couple(model):
    """Two texts in one call: the queries of cross-attention twice, results joined by a mask."""

    def twice(n, context, value, options):
        both = torch.cat((context, -context))
        return torch.cat((n, n)), both, both

    def join(n, options):
        first, second = n.chunk(2)
        size = tuple(options["activations_shape"][-2:])
        mask = functional.interpolate(left_part()[None], size).flatten()[:, None]  # (N, 1)
        return first * mask + second * (1 - mask)

    model.set_model_attn2_patch(twice)
    model.set_model_attn2_output_patch(join)


@cache
def from_an_image(run):
    image = AveragingVAE().encode(pixels()) * 5
    return run.but(latent={"samples": image}, denoise=0.6)


def noise_mask(run):
    return run.but(latent=outputs(nodes.SetLatentNoiseMask, run.latent, left_part())[0])


def differential_diffusion(run):
    """Every pixel begins at the step that its grey mask says."""
    grey = torch.linspace(0, 1, WIDTH).expand(1, HEIGHT, WIDTH)
    run = run.but(latent=outputs(nodes.SetLatentNoiseMask, run.latent, grey)[0], steps=4)
    node = comfy_extras.nodes_differential_diffusion.DifferentialDiffusion
    return run.with_model(lambda model: outputs(node, model)[0])


@cache
def inpainting_model(run):
    return run.but(model=NAMED["sd15_inpaint"].model)


def inpainting(run):
    positive, negative, latent = outputs(
        nodes.InpaintModelConditioning, run.positive, run.negative, pixels(), AveragingVAE(),
        left_part(), True,
    )  # fmt: skip
    return run.but(positive=positive, negative=negative, latent=latent)


@cache
def pix2pix_model(run):
    return run.but(model=NAMED["sd15_instruct"].model)


def pix2pix(run):
    node = comfy_extras.nodes_ip2p.InstructPixToPixConditioning
    positive, negative, latent = outputs(node, run.positive, run.negative, pixels(), AveragingVAE())
    return run.but(positive=positive, negative=negative, latent=latent)


@cache
def unclip_model(run):
    config = comfy.supported_models.SD20(
        {**SD2.config, "num_classes": "sequential", "adm_in_channels": 32}
    )
    config.unet_config |= NARROW_HEADS
    config.set_inference_dtype(torch.float32, None)
    noise = {"noise_schedule_config": {"timesteps": 1000}, "timestep_dim": 16}
    model = comfy.model_base.SD21UNCLIP(config, device=CPU, noise_aug_config=noise)
    return run.but(model=patcher(model))


def unclip(run):
    seen = SimpleNamespace(image_embeds=random(1, 16, seed=2))
    return on_positive(nodes.unCLIPConditioning, seen, 1.0, 0.1)(run)


@cache
def video_model(run):
    return run.but(
        model=NAMED["svd"].model, latent={"samples": torch.zeros(3, 4, HEIGHT // 8, WIDTH // 8)}
    )


class LookingAtImages:
    def encode_image(self, image):
        return SimpleNamespace(image_embeds=random(1, 24, seed=6))


def video(run):
    """Three frames; attention along the time has as many tokens and is as ever."""
    node = comfy_extras.nodes_video_model.SVD_img2vid_Conditioning
    positive, negative, latent = outputs(
        node, LookingAtImages(), pixels(), AveragingVAE(), WIDTH, HEIGHT, 3, 127, 6, 0.0
    )
    return run.but(positive=positive, negative=negative, latent=latent)


@cache
def gligen_model():
    """One gated self-attention for each of the seven transformers of "sd15"."""
    widths = (32, 64, 64, 64, 64, 32, 32)
    gated = [comfy.gligen.GatedSelfAttentionDense(width, 24, 2, width // 2) for width in widths]
    network = comfy.gligen.Gligen(gated, comfy.gligen.PositionNet(24, 24), 24)
    fill(network.eval())
    return comfy.model_patcher.ModelPatcher(network, load_device=CPU, offload_device=CPU)


class OneWord:
    """A text encoder as far as GLIGEN's node needs one."""

    def tokenize(self, text):
        return text

    def encode_from_tokens(self, tokens, return_pooled):
        return None, random(1, 24, seed=3)


def boxes(run):
    box = {"width": 48, "height": 56, "x": 16, "y": 24}
    return on_positive(nodes.GLIGENTextBoxApply, OneWord(), gligen_model(), "a cat", **box)(run)


def lora_hook(run, *keyframes):
    """A LoRA for the positive text alone, so that the two texts cannot share a call."""
    extra = comfy_extras.nodes_hooks
    hooks = outputs(extra.CreateHookLora, LORA, 1.0, 0.0)[0]
    frames = None
    for strength, start in keyframes:
        frames = outputs(extra.CreateHookKeyframe, strength, start, frames)[0]
    if frames:
        hooks = outputs(extra.SetHookKeyframes, hooks, frames)[0]
    return on_positive(extra.SetModelHooksOnCond, hooks)(run)


AREA = on_positive(nodes.ConditioningSetArea, 72, 56, 24, 32, 1.0)
AREA_IN_PERCENT = on_positive(nodes.ConditioningSetAreaPercentage, 0.5, 0.75, 0.3, 0.1, 1.0)
MASK = on_positive(nodes.ConditioningSetMask, left_part(), "default", 1.0)
BOUNDS_OF_A_MASK = on_positive(nodes.ConditioningSetMask, left_part(), "mask bounds", 1.0)

SCENARIOS = {
    "ControlNet": Scenario(controlled_by(control_net)),
    "ControlNet for the first half": Scenario(controlled_by(control_net, end=0.5)),
    "T2I-Adapter": Scenario(controlled_by(t2i_adapter)),
    "text for an area": Scenario(beside_another_text(AREA)),
    "text for an area in percent": Scenario(beside_another_text(AREA_IN_PERCENT)),
    "text with a mask": Scenario(beside_another_text(MASK)),
    "text within the bounds of a mask": Scenario(beside_another_text(BOUNDS_OF_A_MASK)),
    "a text for each region": Scenario(regions),
    "default text": Scenario(default_text),
    "a text for each half of the steps": Scenario(two_halves_in_time),
    "longer text": Scenario(longer_text),
    "Attention Couple": Scenario(on_model(attention_couple)),
    "inpainting with a noise mask": Scenario(noise_mask, base=from_an_image),
    "Differential Diffusion": Scenario(differential_diffusion, base=from_an_image),
    "inpainting model": Scenario(inpainting, base=inpainting_model),
    "instruct pix2pix": Scenario(pix2pix, base=pix2pix_model),
    "unCLIP": Scenario(unclip, base=unclip_model),
    "Stable Video Diffusion": Scenario(video, base=video_model),
    "GLIGEN": Scenario(boxes),
    "LoRA for one text (hook)": Scenario(lora_hook),
    "LoRA by a schedule (hook keyframes)": Scenario(
        lambda run: lora_hook(run, (1.0, 0.0), (0.2, 0.5))
    ),
}


@pytest.mark.usefixtures("lora_file")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_act(start, scenario):
    check(SCENARIOS[scenario], start())


REGIONAL = (
    "text for an area",
    "text within the bounds of a mask",
    "a text for each region",
    "Attention Couple",
)


@pytest.mark.parametrize("scenario", REGIONAL)
def test_both_act_on_sdxl(start, scenario):
    check(SCENARIOS[scenario], start("sdxl"))

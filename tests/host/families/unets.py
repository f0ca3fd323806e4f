"""Networks with levels of several resolutions."""

import torch

from .case import POOLED, PROMPT, SMALL, WIDTH, Case, Layer, image, prompt
from .models import Network

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
    "use_spatial_transformer": True, "context_dim": WIDTH,
}  # fmt: skip
NARROW_HEADS = {"num_heads": -1, "num_head_channels": 16}  # they fit a model of 32 channels
SD15 = Network("SD15", NARROW_HEADS, **UNET)
SD2 = Network("SD20", NARROW_HEADS, use_linear_in_transformer=True, **UNET)
# By this the host tells a velocity prediction from the other SD 2 models: it is not constant.
VELOCITY = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.arange(4.0)}
SDXL = SD2.but(
    "SDXL",
    num_classes="sequential",
    adm_in_channels=1280 + 6 * 256,
    # As in the real one: no attention at the finest resolution.
    channel_mult=[1, 1, 2],
    num_res_blocks=[1, 1, 1],
    transformer_depth=[0, 1, 1],
    transformer_depth_output=[0, 0, 1, 1, 1, 1],
)
SVD = SD2.but(
    "SVD_img2vid", in_channels=8, num_classes="sequential", adm_in_channels=3 * 256,
    use_temporal_attention=True, use_temporal_resblock=True, use_spatial_context=True,
    merge_strategy="learned_with_images", video_kernel_size=[3, 1, 1],
)  # fmt: skip
CASCADE = Network(
    "Stable_Cascade_C", c_cond=32, c_hidden=[32, 32], nhead=[2, 2], blocks=[[1, 1], [1, 1]],
    c_clip_text=WIDTH, c_clip_text_pooled=WIDTH,
)  # fmt: skip


def unet_layers(fine, coarse, patch):
    """Self-attention in the blocks `fine`, one token for a square of `patch`, and `coarse`."""
    modules = r"({})\.1\.transformer_blocks\.0\.attn1".format
    mixed = ("text", "image")
    return (
        Layer(modules(fine), patch=patch, spread=1),
        Layer(modules(coarse), patch=2 * patch, mixed=mixed, spread=1),
    )


LAYERS = unet_layers(
    r"input_blocks\.1|output_blocks\.[23]", r"input_blocks\.3|middle_block|output_blocks\.[01]", 1
)
XL_LAYERS = unet_layers(
    r"input_blocks\.3|output_blocks\.[23]", r"input_blocks\.5|middle_block|output_blocks\.[01]", 2
)
CASCADE_LAYER = Layer(
    r"(down|up)_blocks\.\d+\.\d+\.attention\.attn",
    suffix=(*PROMPT, ("text", 4), ("text", 4)),  # prompt as a whole, image prompt
    patch=1,
    spread=1,
)
SHOWN = {"concat_latent_image": image(1, 4, 12, 20)}
XL_PROMPT = prompt(pooled_output=(1, 1280))

UNETS = (
    Case("sd15", "Stable Diffusion 1.5", SD15, LAYERS),
    Case(
        "sd15_inpaint", "Stable Diffusion 1.5 for inpainting", SD15.but(in_channels=9), LAYERS,
        prompt(**SHOWN, concat_mask=torch.ones(1, 1, 12, 20)),
    ),
    Case(
        "sd15_instruct", "Stable Diffusion 1.5, InstructPix2Pix",
        SD15.but("SD15_instructpix2pix", in_channels=8), LAYERS, prompt(**SHOWN),
    ),
    Case("sd2", "Stable Diffusion 2 base", SD2, LAYERS),
    Case("sd2v", "Stable Diffusion 2 (velocity)", SD2.but(state=VELOCITY), LAYERS),
    Case("sdxl", "Stable Diffusion XL", SDXL, XL_LAYERS, XL_PROMPT),
    Case(
        "sdxl_refiner", "Stable Diffusion XL refiner",
        SDXL.but("SDXLRefiner", adm_in_channels=1280 + 5 * 256), XL_LAYERS, XL_PROMPT,
    ),
    Case(
        "svd", "Stable Video Diffusion", SVD, LAYERS,
        prompt(length=1, concat_latent_image=image(3, 4, 8, 12)), batch=3, sizes=((8, 12), (9, 11)),
        apart=r".*\.time_stack\.0\.attn1",
    ),
    Case(
        "stable_cascade", "Stable Cascade, stage C", CASCADE, (CASCADE_LAYER,), prompt(**POOLED),
        text=("clip_text", "clip_text_pooled", "clip_img"), sizes=SMALL,
    ),
)  # fmt: skip

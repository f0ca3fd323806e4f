"""Networks with levels of several resolutions."""

from functools import partial

import torch

from .case import POOLED, PROMPT, SMALL, WIDTH, Case, Layer, picture, prompt
from .models import build

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
    "context_dim": WIDTH,
    "use_linear_in_transformer": False,
}
SD2 = {**UNET, "use_linear_in_transformer": True}
XL = {
    **SD2,
    "num_classes": "sequential",
    "adm_in_channels": 1280 + 6 * 256,
    # As in the real one: no attention at the finest resolution.
    "channel_mult": [1, 1, 2],
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
}
SVD = {
    **SD2,
    "in_channels": 8,
    "num_classes": "sequential",
    "adm_in_channels": 3 * 256,
    "use_temporal_attention": True,
    "use_temporal_resblock": True,
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
    "disable_temporal_crossattention": False,
}
NARROW_HEADS = {"num_heads": -1, "num_head_channels": 16}  # they fit a model of 32 channels
# By this the host tells a velocity prediction from the other SD 2 models: it is not constant.
VELOCITY = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.arange(4.0)}
CASCADE = {
    "stable_cascade_stage": "c",
    "c_cond": 32,
    "c_hidden": [32, 32],
    "nhead": [2, 2],
    "blocks": [[1, 1], [1, 1]],
    "c_clip_text": WIDTH,
    "c_clip_text_pooled": WIDTH,
}
UNET_FINE = r"(input_blocks\.1|output_blocks\.[23])\.1\.transformer_blocks\.0\.attn1"
UNET_COARSE = r"(input_blocks\.3|middle_block|output_blocks\.[01])\.1\.transformer_blocks\.0\.attn1"
XL_FINE = r"(input_blocks\.3|output_blocks\.[23])\.1\.transformer_blocks\.0\.attn1"
XL_COARSE = r"(input_blocks\.5|middle_block|output_blocks\.[01])\.1\.transformer_blocks\.0\.attn1"
UNET_LAYERS = (
    Layer(UNET_FINE, patch=1, adapter=1),
    Layer(UNET_COARSE, patch=2, mixed=("text", "picture"), adapter=1),
)
XL_LAYERS = (
    Layer(XL_FINE, patch=2, adapter=1),
    Layer(XL_COARSE, patch=4, mixed=("text", "picture"), adapter=1),
)

UNETS = (
    Case(
        "sd15",
        "Stable Diffusion 1.5",
        partial(build, "SD15", UNET, fixed=NARROW_HEADS),
        prompt(),
        UNET_LAYERS,
        channels=4,
    ),
    Case(
        "sd15_inpaint",
        "Stable Diffusion 1.5 for inpainting",
        partial(build, "SD15", {**UNET, "in_channels": 9}, fixed=NARROW_HEADS),
        prompt(concat_latent_image=picture(1, 4, 12, 20), concat_mask=torch.ones(1, 1, 12, 20)),
        UNET_LAYERS,
        channels=4,
    ),
    Case(
        "sd15_instruct",
        "Stable Diffusion 1.5, InstructPix2Pix",
        partial(build, "SD15_instructpix2pix", {**UNET, "in_channels": 8}, fixed=NARROW_HEADS),
        prompt(concat_latent_image=picture(1, 4, 12, 20)),
        UNET_LAYERS,
        channels=4,
    ),
    Case(
        "sd2",
        "Stable Diffusion 2 base",
        partial(build, "SD20", SD2, fixed=NARROW_HEADS),
        prompt(),
        UNET_LAYERS,
        channels=4,
    ),
    Case(
        "sd2v",
        "Stable Diffusion 2 (velocity)",
        partial(build, "SD20", SD2, VELOCITY, NARROW_HEADS),
        prompt(),
        UNET_LAYERS,
        channels=4,
    ),
    Case(
        "sdxl",
        "Stable Diffusion XL",
        partial(build, "SDXL", XL, fixed=NARROW_HEADS),
        prompt(pooled_output=(1, 1280)),
        XL_LAYERS,
        channels=4,
    ),
    Case(
        "sdxl_refiner",
        "Stable Diffusion XL refiner",
        partial(
            build, "SDXLRefiner", {**XL, "adm_in_channels": 1280 + 5 * 256}, fixed=NARROW_HEADS
        ),
        prompt(pooled_output=(1, 1280)),
        XL_LAYERS,
        channels=4,
    ),
    Case(
        "svd",
        "Stable Video Diffusion",
        partial(build, "SVD_img2vid", SVD, fixed=NARROW_HEADS),
        prompt(length=1, concat_latent_image=picture(3, 4, 8, 12)),
        UNET_LAYERS,
        channels=4,
        batch=3,
        sizes=((8, 12), (9, 11)),
        apart=r".*\.time_stack\.0\.attn1",
    ),
    Case(
        "stable_cascade",
        "Stable Cascade, stage C",
        partial(build, "Stable_Cascade_C", CASCADE),
        prompt(**POOLED),
        (
            Layer(
                r"(down|up)_blocks\.\d+\.\d+\.attention\.attn",
                after=(*PROMPT, ("text", 4), ("text", 4)),  # prompt as a whole, image prompt
                patch=1,
                adapter=1,
            ),
        ),
        text=("clip_text", "clip_text_pooled", "clip_img"),
        sizes=SMALL,
    ),
)

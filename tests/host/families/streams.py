"""Transformers built like Flux: double blocks, then single ones, of picture and text."""

import inspect

import comfy.ldm.chroma.model
import comfy.ldm.chroma_radiance.model
import comfy.ldm.flux.layers
import comfy.ldm.flux.model
import torch
from comfy.ldm.hunyuan_video.model import HunyuanVideoParams

from .case import (
    EVEN,
    POOLED,
    PROMPT,
    REFERENCE,
    SMALL,
    WIDTH,
    Case,
    Layer,
    one_by_one,
    padded_prompt,
    picture,
    prompt,
)
from .models import build, known

FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": WIDTH,
    "context_in_dim": WIDTH,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
CHROMA = {
    **FLUX,
    "image_model": "chroma",
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 64,
    "hidden_dim": 32,
    "n_layers": 1,
}
RADIANCE = {
    **CHROMA,
    "image_model": "chroma_radiance",
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 16,
    "nerf_hidden_size": 8,
    "nerf_mlp_ratio": 2,
    "nerf_depth": 1,
    "nerf_max_freqs": 4,
    "nerf_tile_size": 512,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32,
    "use_x0": False,
    "use_sequential_txt_ids": False,
}
FLUX2 = {
    **FLUX,
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "vec_in_dim": None,
    "axes_dim": [8, 8, 8, 8],
    "mlp_ratio": 3.0,
    "theta": 2000,
    "global_modulation": True,
    "mlp_silu_act": True,
    "qkv_bias": False,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
    "txt_ids_dims": [3],
}
LONGCAT = {**FLUX, "vec_in_dim": None, "guidance_embed": False, "txt_ids_dims": [1, 2]}
HUNYUAN_VIDEO = {
    **FLUX,
    "image_model": "hunyuan_video",
    "patch_size": [1, 2, 2],
    "theta": 256,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
HUNYUAN_IMAGE = {
    **HUNYUAN_VIDEO,
    "in_channels": 64,
    "out_channels": 64,
    "patch_size": [1, 1],
    "vec_in_dim": None,
    "axes_dim": [16, 16],
    "guidance_embed": False,
}
STREAMS = r"(double|single)_blocks\.\d+"
# Hosts before February 2026 put the image in front of the text.
HUNYUAN_FLIPPED = (
    "flipped_img_txt" in inspect.signature(comfy.ldm.flux.layers.DoubleStreamBlock).parameters
)


def hunyuan_layers(*in_front_of_picture, patch=2):
    if HUNYUAN_FLIPPED:
        return (Layer(STREAMS, before=in_front_of_picture, after=PROMPT, patch=patch),)
    return (Layer(STREAMS, before=(*PROMPT, *in_front_of_picture), patch=patch),)


def build_hunyuan_video():
    return build("HunyuanVideo", known(HunyuanVideoParams, HUNYUAN_VIDEO))


STREAMING = (
    Case(
        "flux",
        "Flux",
        lambda: build("Flux", known(comfy.ldm.flux.model.FluxParams, FLUX)),
        prompt(**POOLED),
        (Layer(STREAMS, before=PROMPT),),
    ),
    Case(
        "flux_references",
        "Flux with reference images",
        lambda: build("Flux", known(comfy.ldm.flux.model.FluxParams, FLUX)),
        prompt(**POOLED, reference_latents=[picture(1, 16, 8, 10)]),
        (Layer(STREAMS, before=PROMPT, after=REFERENCE),),
    ),
    Case(
        "chroma",
        "Chroma",
        lambda: build("Chroma", known(comfy.ldm.chroma.model.ChromaParams, CHROMA)),
        prompt(**POOLED),
        (Layer(STREAMS, before=PROMPT),),
    ),
    Case(
        "chroma_radiance",
        "Chroma Radiance",
        lambda: build(
            "ChromaRadiance",
            known(comfy.ldm.chroma_radiance.model.ChromaRadianceParams, RADIANCE),
        ),
        prompt(**POOLED),
        (Layer(STREAMS, before=PROMPT, patch=16),),
        host_class="ChromaRadiance",
        channels=3,
        sizes=((96, 160), (104, 150)),
    ),
    Case(
        "flux2",
        "Flux 2",
        lambda: build("Flux2", known(comfy.ldm.flux.model.FluxParams, FLUX2)),
        prompt(),
        (Layer(STREAMS, before=(("text", 512),), patch=1),),
        host_class="Flux2",
        channels=128,
        sizes=SMALL,
    ),
    Case(
        "flux2_references",
        "Flux 2 with reference images",
        lambda: build("Flux2", known(comfy.ldm.flux.model.FluxParams, FLUX2)),
        prompt(reference_latents=[picture(1, 128, 4, 5)]),
        (Layer(STREAMS, before=(("text", 512),), after=REFERENCE, patch=1),),
        host_class="Flux2",
        channels=128,
        sizes=SMALL,
    ),
    Case(
        "longcat_image",
        "LongCat-Image",
        lambda: build("LongCatImage", known(comfy.ldm.flux.model.FluxParams, LONGCAT)),
        prompt(),
        (Layer(STREAMS, before=PROMPT),),
        host_class="LongCatImage",
    ),
    Case(
        "hunyuan_video",
        "Hunyuan Video",
        build_hunyuan_video,
        prompt(**POOLED),
        hunyuan_layers(),
        frames=2,
        sizes=EVEN,
    ),
    Case(
        "hunyuan_video_padded",
        "Hunyuan Video with a padded prompt",
        build_hunyuan_video,
        one_by_one(prompt(**POOLED, attention_mask=padded_prompt()), attention_mask=None),
        hunyuan_layers(),
        frames=2,
        sizes=EVEN,
    ),
    Case(
        "hunyuan_video_reference",
        "Hunyuan Video with a reference image",
        build_hunyuan_video,
        one_by_one(prompt(**POOLED, ref_latent=picture(1, 16, 1, 8, 10)), ref_latent=None),
        hunyuan_layers(*REFERENCE),
        frames=2,
        sizes=EVEN,
        references=("ref_latent",),
    ),
    Case(
        "hunyuan_image21",
        "Hunyuan Image 2.1",
        lambda: build("HunyuanImage21", known(HunyuanVideoParams, HUNYUAN_IMAGE)),
        prompt(),
        hunyuan_layers(patch=1),
        host_class="HunyuanImage21",
        channels=64,
        sizes=SMALL,
    ),
)

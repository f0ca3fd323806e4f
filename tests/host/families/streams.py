"""Transformers built like Flux: double blocks, then single ones, of image and text."""

import inspect
from types import SimpleNamespace

import torch
from comfy.ldm.chroma.model import ChromaParams
from comfy.ldm.chroma_radiance.model import ChromaRadianceParams
from comfy.ldm.flux.layers import DoubleStreamBlock
from comfy.ldm.flux.model import FluxParams
from comfy.ldm.hunyuan_video.model import HunyuanVideoParams

from .case import (
    EVEN,
    PIXELS,
    POOLED,
    PROMPT,
    REFERENCE,
    SMALL,
    WIDTH,
    Case,
    Layer,
    image,
    one_by_one,
    padded_prompt,
    prompt,
)
from .models import Network

FLUX = Network(
    "Flux", params=FluxParams, in_channels=16, out_channels=16, patch_size=2, vec_in_dim=WIDTH,
    context_in_dim=WIDTH, hidden_size=64, mlp_ratio=2.0, num_heads=2, depth=2,
    depth_single_blocks=2, axes_dim=[8, 12, 12], theta=10000, qkv_bias=True, guidance_embed=True,
    txt_ids_dims=[],
)  # fmt: skip
CHROMA = FLUX.but(
    "Chroma", params=ChromaParams, in_channels=64, out_channels=64, in_dim=64, out_dim=64,
    hidden_dim=32, n_layers=1,
)  # fmt: skip
RADIANCE = CHROMA.but(
    "ChromaRadiance", params=ChromaRadianceParams, in_channels=3, out_channels=3, patch_size=16,
    nerf_hidden_size=8, nerf_mlp_ratio=2, nerf_depth=1, nerf_max_freqs=4, nerf_tile_size=512,
    nerf_final_head_type="conv", nerf_embedder_dtype=torch.float32, use_x0=False,
    use_sequential_txt_ids=False,
)  # fmt: skip
FLUX2 = FLUX.but(
    "Flux2", in_channels=128, out_channels=128, patch_size=1, vec_in_dim=None,
    axes_dim=[8, 8, 8, 8], mlp_ratio=3.0, theta=2000, global_modulation=True, mlp_silu_act=True,
    qkv_bias=False, ops_bias=False, default_ref_method="index", ref_index_scale=10.0,
    txt_ids_dims=[3],
)  # fmt: skip
LONGCAT = FLUX.but("LongCatImage", vec_in_dim=None, guidance_embed=False, txt_ids_dims=[1, 2])
HUNYUAN_VIDEO = FLUX.but(
    "HunyuanVideo", params=HunyuanVideoParams, patch_size=[1, 2, 2], theta=256, byt5=False,
    meanflow=False, use_cond_type_embedding=False, vision_in_dim=None, meanflow_sum=False,
)  # fmt: skip
HUNYUAN_VIDEO15 = HUNYUAN_VIDEO.but(
    "HunyuanVideo15", in_channels=65, out_channels=32, patch_size=[1, 1, 1], vec_in_dim=None,
    guidance_embed=False, byt5=True, use_cond_type_embedding=True, vision_in_dim=WIDTH,
)  # fmt: skip
HUNYUAN_IMAGE = HUNYUAN_VIDEO.but(
    "HunyuanImage21", in_channels=64, out_channels=64, patch_size=[1, 1], vec_in_dim=None,
    axes_dim=[16, 16], guidance_embed=False,
)  # fmt: skip
# Hosts before February 2026 put the image in front of the text.
HUNYUAN_FLIPPED = "flipped_img_txt" in inspect.signature(DoubleStreamBlock).parameters


def streams(prefix=PROMPT, **keys):
    return (Layer(r"(double|single)_blocks\.\d+", prefix, **keys),)


def hunyuan_streams(*in_front_of_image, text=PROMPT, patch=2):
    if HUNYUAN_FLIPPED:
        return streams(in_front_of_image, suffix=text, patch=patch)
    return streams((*text, *in_front_of_image), patch=patch)


FLUX2_PROMPT = (("text", 512),)
VIDEO = {"frames": 2, "sizes": EVEN}

STREAMING = (
    Case("flux", "Flux", FLUX, streams(), prompt(**POOLED)),
    Case(
        "flux_references", "Flux with reference images", FLUX, streams(suffix=REFERENCE),
        prompt(**POOLED, reference_latents=[image(1, 16, 8, 10)]),
    ),
    Case("chroma", "Chroma", CHROMA, streams(), prompt(**POOLED)),
    Case(
        "chroma_radiance", "Chroma Radiance", RADIANCE, streams(patch=16), prompt(**POOLED),
        sizes=PIXELS,
    ),
    Case(
        "flux2", "Flux 2", FLUX2, streams(FLUX2_PROMPT, patch=1), prompt(pooled_output=None),
        sizes=SMALL,
    ),
    Case(
        "flux2_references", "Flux 2 with reference images", FLUX2,
        streams(FLUX2_PROMPT, suffix=REFERENCE, patch=1),
        prompt(pooled_output=None, reference_latents=[image(1, 128, 4, 5)]), sizes=SMALL,
    ),
    Case("longcat_image", "LongCat-Image", LONGCAT, streams()),
    Case(
        "hunyuan_video", "Hunyuan Video", HUNYUAN_VIDEO, hunyuan_streams(), prompt(**POOLED),
        **VIDEO,
    ),
    Case(
        "hunyuan_video_padded", "Hunyuan Video with a padded prompt", HUNYUAN_VIDEO,
        hunyuan_streams(),
        one_by_one(prompt(**POOLED, attention_mask=padded_prompt()), attention_mask=None), **VIDEO,
    ),
    Case(
        "hunyuan_video_reference", "Hunyuan Video with a reference image", HUNYUAN_VIDEO,
        hunyuan_streams(*REFERENCE),
        one_by_one(prompt(**POOLED, ref_latent=image(1, 16, 1, 8, 10)), ref_latent=None),
        references=("ref_latent",), **VIDEO,
    ),
    Case(
        "hunyuan_video15", "Hunyuan Video 1.5 with an image and glyphs", HUNYUAN_VIDEO15,
        hunyuan_streams(text=(*PROMPT, ("text", 5), ("text", 3)), patch=1),
        prompt(
            pooled_output=None, concat_latent_image=image(1, 32, 2, 6, 10),
            conditioning_byt5small=(1, 5, 1472),
            clip_vision_output=SimpleNamespace(last_hidden_state=image(1, 3, WIDTH)),
        ),
        frames=2, sizes=SMALL, text=("c_crossattn", "txt_byt5", "clip_fea"),
    ),
    Case(
        "hunyuan_image21", "Hunyuan Image 2.1", HUNYUAN_IMAGE, hunyuan_streams(patch=1),
        sizes=SMALL,
    ),
)  # fmt: skip

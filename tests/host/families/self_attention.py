"""Transformers in which the picture attends to itself and apart from that to the text."""

from functools import partial

import pytest
import torch
from bigain.bigain_core.comfyui.dit_model import label_conditioning
from comfy.ldm.cosmos.predict2 import MiniTrainDIT

from .case import EVEN, POOLED, SMALL, TEXT, WIDTH, Case, Layer, padded_prompt, picture, prompt
from .models import build, own_dit

PIXART = {
    "input_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "hidden_size": 96,
    "depth": 2,
    "num_heads": 2,
    "caption_channels": WIDTH,
    "model_max_length": 12,
    "pe_interpolation": 1.0,
}
HUNYUAN_DIT = {
    "image_model": "hydit",
    "input_size": 16,
    "in_channels": 4,
    "hidden_size": 64,
    "depth": 4,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "text_states_dim": WIDTH,
    "text_states_dim_t5": 16,
    "text_len": TEXT,
    "text_len_t5": 8,
    "qk_norm": True,
    "size_cond": False,
    "use_style_cond": False,
}
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 48,
    "num_heads": 2,
    "ffn_dim": 64,
    "num_layers": 2,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "in_dim": 16,
    "out_dim": 16,
    "text_dim": WIDTH,
    "text_len": 12,
}
COSMOS = {
    "image_model": "cosmos_predict2",
    "max_img_h": 64,
    "max_img_w": 64,
    "max_frames": 8,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 64,
    "num_blocks": 2,
    "num_heads": 2,
    "concat_padding_mask": True,
    "crossattn_emb_channels": WIDTH,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "adaln_lora_dim": 16,
    "extra_per_block_abs_pos_emb": False,
    "rope_enable_fps_modulation": False,
}
# Older hosts do not pad for Cosmos.
COSMOS_PADS = "pad_to_patch_size" in MiniTrainDIT._forward.__code__.co_names
COSMOS_SIZES = ((12, 20), (13, 19)) if COSMOS_PADS else EVEN
LTXV = {
    "image_model": "ltxv",
    "in_channels": 128,
    "cross_attention_dim": 64,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "caption_channels": WIDTH,
    "num_layers": 2,
}
KANDINSKY = {
    "image_model": "kandinsky5",
    "in_text_dim": WIDTH,
    "in_text_dim2": WIDTH,
    "time_dim": 64,
    "model_dim": 64,
    "ff_dim": 64,
    "num_text_blocks": 1,
    "num_visual_blocks": 2,
    "axes_dims": (8, 12, 12),
}


def anima():
    """Its adapter of the text is of one size, 33 million weights in the table of tokens alone."""
    import comfy.ldm.anima.model as module

    small = {"source_dim": WIDTH, "target_dim": WIDTH, "model_dim": 32}
    with pytest.MonkeyPatch.context() as changed:
        adapter = partial(module.LLMAdapter, **small, num_layers=1, num_heads=2)
        changed.setattr(module, "LLMAdapter", adapter)
        return build("Anima", {**COSMOS, "image_model": "anima"})


SELF_ATTENTION = (
    Case(
        "dit",
        "class-conditional DiT",
        own_dit,
        lambda number: label_conditioning([number]),
        (Layer(r"blocks\.\d+.*"),),
        channels=4,
        text=(),
    ),
    Case(
        "pixart_alpha",
        "PixArt alpha",
        partial(
            build,
            "PixArtAlpha",
            {**PIXART, "image_model": "pixart_alpha", "micro_condition": True},
        ),
        prompt(),
        (Layer(r"blocks\.\d+\.attn"),),
        channels=4,
        sizes=((40, 48),),
        blind="comfy.ldm.pixart.blocks",
    ),
    Case(
        "pixart_sigma",
        "PixArt sigma",
        partial(
            build,
            "PixArtSigma",
            {**PIXART, "image_model": "pixart_sigma", "micro_condition": False},
        ),
        prompt(),
        (Layer(r"blocks\.\d+\.attn"),),
        channels=4,
        sizes=((40, 48),),
        blind="comfy.ldm.pixart.blocks",
    ),
    Case(
        "hunyuan_dit",
        "Hunyuan DiT",
        partial(build, "HunyuanDiT", HUNYUAN_DIT),
        prompt(
            attention_mask=padded_prompt(),
            conditioning_mt5xl=(1, 8, 16),
            attention_mask_mt5xl=padded_prompt(8),
        ),
        (Layer(r"blocks\.\d+\.attn1"),),
        channels=4,
        blind="comfy.ldm.hydit.attn_layers",
    ),
    Case(
        "wan",
        "Wan 2.1",
        partial(build, "WAN21_T2V", WAN),
        prompt(),
        (Layer(r"blocks\.\d+\.self_attn"),),
        frames=3,
    ),
    Case(
        "wan_one_frame",
        "Wan 2.1, one frame",
        partial(build, "WAN21_T2V", WAN),
        prompt(),
        (Layer(r"blocks\.\d+\.self_attn"),),
        frames=1,
    ),
    Case(
        "wan_reference",
        "Wan 2.1 Fun with a reference image",
        partial(build, "WAN21_T2V", {**WAN, "in_dim_ref_conv": 16}),
        prompt(reference_latents=[picture(1, 16, 1, 12, 20)]),
        (Layer(r"blocks\.\d+\.self_attn", before=(("reference", 6 * 10),)),),
        frames=3,
        sizes=EVEN,  # the reference has the size of the image
        references=("reference_latent",),
    ),
    Case(
        "cosmos_predict2",
        "Cosmos Predict2",
        partial(build, "CosmosT2IPredict2", COSMOS),
        prompt(),
        (Layer(r"blocks\.\d+\.self_attn"),),
        frames=2,
        sizes=COSMOS_SIZES,
    ),
    Case(
        "ltxv",
        "LTX Video",
        partial(build, "LTXV", LTXV),
        prompt(attention_mask=padded_prompt()),
        (Layer(r"transformer_blocks\.\d+\.attn1", patch=1),),
        channels=128,
        frames=2,
        sizes=SMALL,
    ),
    Case(
        "kandinsky5_image",
        "Kandinsky 5 image",
        partial(build, "Kandinsky5Image", {**KANDINSKY, "visual_embed_dim": 16 * 4}),
        prompt(**POOLED),
        (Layer(r"visual_transformer_blocks\.\d+\.self_attention"),),
        host_class="Kandinsky5Image",
        sizes=EVEN,
    ),
    Case(
        "kandinsky5_video",
        "Kandinsky 5 video",
        partial(build, "Kandinsky5", {**KANDINSKY, "visual_embed_dim": 33 * 4}),
        prompt(**POOLED),
        (Layer(r"visual_transformer_blocks\.\d+\.self_attention"),),
        host_class="Kandinsky5",
        frames=2,
        sizes=EVEN,
    ),
    Case(
        "anima",
        "Anima",
        anima,
        prompt(t5xxl_ids=torch.arange(1, 9), t5xxl_weights=torch.ones(8)),
        (Layer(r"blocks\.\d+\.self_attn"),),
        host_class="Anima",
        frames=1,
    ),
)

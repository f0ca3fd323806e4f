"""Transformers in which the image attends to itself and apart from that to the text."""

from functools import partial

import pytest
import torch
from bigain.bigain_core.comfyui.dit_model import label_conditioning
from comfy.ldm.cosmos.predict2 import MiniTrainDIT

from .case import EVEN, POOLED, SMALL, TEXT, WIDTH, Case, Layer, image, padded_prompt, prompt
from .models import Network, own_dit

PIXART = Network("PixArtAlpha", hidden_size=96, depth=2, num_heads=2, caption_channels=WIDTH)
PIXART_SIGMA = PIXART.but("PixArtSigma", micro_condition=False)
HUNYUAN_DIT = Network(
    "HunyuanDiT", hidden_size=64, depth=4, num_heads=2, mlp_ratio=2.0, text_states_dim=WIDTH,
    text_states_dim_t5=16, text_len=TEXT, text_len_t5=8,
)  # fmt: skip
WAN = Network("WAN21_T2V", dim=48, num_heads=2, ffn_dim=64, num_layers=2, text_dim=WIDTH)
COSMOS = Network(
    "CosmosT2IPredict2", max_img_h=64, max_img_w=64, max_frames=8, in_channels=16, out_channels=16,
    patch_spatial=2, patch_temporal=1, model_channels=64, num_blocks=2, num_heads=2,
    crossattn_emb_channels=WIDTH, pos_emb_cls="rope3d", use_adaln_lora=True, adaln_lora_dim=16,
)  # fmt: skip
# Older hosts do not pad for Cosmos.
COSMOS_PADS = "pad_to_patch_size" in MiniTrainDIT._forward.__code__.co_names
COSMOS_SIZES = ((12, 20), (13, 19)) if COSMOS_PADS else EVEN
LTXV = Network(
    "LTXV", cross_attention_dim=64, attention_head_dim=32, num_attention_heads=2,
    caption_channels=WIDTH, num_layers=2,
)  # fmt: skip
KANDINSKY = Network(
    "Kandinsky5", in_text_dim=WIDTH, in_text_dim2=WIDTH, time_dim=64, model_dim=64, ff_dim=64,
    num_text_blocks=1, num_visual_blocks=2, axes_dims=(8, 12, 12),
)  # fmt: skip


class Anima(Network):
    """Its adapter of the text is of one size, 33 million weights in the table of tokens alone."""

    def __call__(self):
        import comfy.ldm.anima.model as module

        small = {"source_dim": WIDTH, "target_dim": WIDTH, "model_dim": 32}
        with pytest.MonkeyPatch.context() as changed:
            adapter = partial(module.LLMAdapter, **small, num_layers=1, num_heads=2)
            changed.setattr(module, "LLMAdapter", adapter)
            return super().__call__()


def in_blocks(attention, blocks="blocks", **keys):
    return (Layer(rf"{blocks}\.\d+\.{attention}", **keys),)


BLIND_PIXART = {"sizes": ((40, 48),), "blind": "comfy.ldm.pixart.blocks"}
ATTN, SELF_ATTN = in_blocks("attn"), in_blocks("self_attn")
VISUAL = in_blocks("self_attention", "visual_transformer_blocks")

SELF_ATTENTION = (
    Case(
        "dit", "class-conditional DiT", own_dit, (Layer(r"blocks\.\d+.*"),),
        lambda number: label_conditioning([number]), text=(),
    ),
    Case("pixart_alpha", "PixArt alpha", PIXART, ATTN, **BLIND_PIXART),
    Case("pixart_sigma", "PixArt sigma", PIXART_SIGMA, ATTN, **BLIND_PIXART),
    Case(
        "hunyuan_dit", "Hunyuan DiT", HUNYUAN_DIT, in_blocks("attn1"),
        prompt(
            attention_mask=padded_prompt(), conditioning_mt5xl=(1, 8, 16),
            attention_mask_mt5xl=padded_prompt(8),
        ),
        blind="comfy.ldm.hydit.attn_layers",
    ),
    Case("wan", "Wan 2.1", WAN, SELF_ATTN, frames=3),
    Case("wan_one_frame", "Wan 2.1, one frame", WAN, SELF_ATTN),
    Case(
        "wan_reference",
        "Wan 2.1 Fun with a reference image",
        WAN.but(in_dim_ref_conv=16),
        in_blocks("self_attn", prefix=(("reference", 6 * 10),)),
        prompt(reference_latents=[image(1, 16, 1, 12, 20)]),
        frames=3,
        sizes=EVEN,  # the reference has the size of the image
        references=("reference_latent",),
    ),
    Case("cosmos_predict2", "Cosmos Predict2", COSMOS, SELF_ATTN, frames=2, sizes=COSMOS_SIZES),
    Case(
        "ltxv", "LTX Video", LTXV, in_blocks("attn1", "transformer_blocks", patch=1),
        prompt(attention_mask=padded_prompt()), frames=2, sizes=SMALL,
    ),
    Case(
        "kandinsky5_image", "Kandinsky 5 image",
        KANDINSKY.but("Kandinsky5Image", visual_embed_dim=16 * 4), VISUAL, prompt(**POOLED),
        sizes=EVEN,
    ),
    Case(
        "kandinsky5_video", "Kandinsky 5 video", KANDINSKY, VISUAL, prompt(**POOLED), frames=2,
        sizes=EVEN,
    ),
    Case(
        "anima", "Anima", Anima("Anima", **COSMOS.config), SELF_ATTN,
        prompt(t5xxl_ids=torch.arange(1, 9), t5xxl_weights=torch.ones(8)),
    ),
)  # fmt: skip

"""Transformers built like Lumina: picture and text are refined apart, then mixed."""

import inspect
from functools import partial

from comfy.ldm.lumina.model import NextDiT

from .case import (
    PROMPT,
    REFERENCE,
    TEXT,
    WHOLE_PROMPT,
    WIDTH,
    Case,
    Layer,
    one_by_one,
    padded_prompt,
    picture,
    prompt,
)
from .models import build

LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 64,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 1,
    "qk_norm": True,
    "cap_feat_dim": WIDTH,
    "axes_dims": [8, 12, 12],
    "axes_lens": [300, 512, 512],
}
Z_IMAGE = {
    **LUMINA,
    "dim": 256,  # its modulation has 256 channels in all sizes
    "n_kv_heads": 2,
    "axes_dims": [32, 48, 48],
    "rope_theta": 256.0,
    "multiple_of": 32,
    "ffn_dim_multiplier": 1.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
Z_IMAGE_PIXEL = {
    **Z_IMAGE,
    "image_model": "zimage_pixel",
    "patch_size": 16,
    "in_channels": 3,
    "decoder_hidden_size": 16,
    "decoder_num_res_blocks": 1,
    "decoder_max_freqs": 4,
}
OMNIGEN = {
    "image_model": "omnigen2",
    "patch_size": 2,
    "in_channels": 16,
    "hidden_size": 64,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "num_attention_heads": 2,
    "num_kv_heads": 1,
    "axes_dim_rope": [8, 12, 12],
    "axes_lens": [64, 64, 64],
    "text_feat_dim": WIDTH,
    "timestep_scale": 1000.0,
}
BOOGU = {
    **{key: OMNIGEN[key] for key in OMNIGEN if key != "text_feat_dim"},
    "image_model": "boogu",
    "num_double_stream_layers": 1,
    "instruction_feat_dim": WIDTH,
}
Z_IMAGE_PROMPT = (("text", 32),)  # with its padding, which its refiner mixes with it
# Older hosts leave the padding of Lumina's prompt out, newer ones keep it.
LUMINA_KEEPS_PADDING = "pad_tokens_multiple" in inspect.signature(NextDiT).parameters
LUMINA_PADDED_PROMPT = PROMPT if LUMINA_KEEPS_PADDING else (("text", TEXT - 1),)

REFINED = (
    Case(
        "lumina2",
        "Lumina 2",
        partial(build, "Lumina2", LUMINA),
        prompt(attention_mask=WHOLE_PROMPT),
        (
            Layer(r"noise_refiner\.\d+\.attention"),
            Layer(r"layers\.\d+\.attention", before=PROMPT),
        ),
    ),
    Case(
        "lumina2_padded",
        "Lumina 2 with a padded prompt",
        partial(build, "Lumina2", LUMINA),
        one_by_one(prompt(attention_mask=padded_prompt()), attention_mask=WHOLE_PROMPT),
        (
            Layer(r"noise_refiner\.\d+\.attention"),
            Layer(r"layers\.\d+\.attention", before=LUMINA_PADDED_PROMPT),
        ),
    ),
    Case(
        "z_image",
        "Z-Image",
        partial(build, "ZImage", Z_IMAGE),
        prompt(attention_mask=WHOLE_PROMPT),
        (
            Layer(r"noise_refiner\.\d+\.attention", multiple=32),
            Layer(r"layers\.\d+\.attention", before=Z_IMAGE_PROMPT, multiple=32),
        ),
        host_class="ZImage",
    ),
    Case(
        "z_image_pixel",
        "Z-Image on pixels",
        partial(build, "ZImagePixelSpace", Z_IMAGE_PIXEL),
        prompt(attention_mask=WHOLE_PROMPT),
        (
            Layer(r"noise_refiner\.\d+\.attention", patch=16, multiple=32),
            Layer(
                r"layers\.\d+\.attention",
                before=Z_IMAGE_PROMPT,
                patch=16,
                multiple=32,
            ),
        ),
        host_class="ZImagePixelSpace",
        channels=3,
        sizes=((96, 160), (104, 150)),
    ),
    Case(
        "z_image_references",
        "Z-Image with a reference image",
        partial(build, "ZImage", Z_IMAGE),
        prompt(
            attention_mask=WHOLE_PROMPT,
            reference_latents=[picture(1, 16, 8, 10)],
        ),
        (
            Layer(
                r"noise_refiner\.\d+\.attention",
                before=(*REFERENCE, ("padding", 12)),
                multiple=32,
            ),
            Layer(
                r"layers\.\d+\.attention",
                # In front of the prompt is the caption of the reference image, here padding only.
                before=(*Z_IMAGE_PROMPT, *Z_IMAGE_PROMPT, *REFERENCE, ("padding", 12)),
                multiple=32,
                mixed=("picture", "reference"),
            ),
        ),
        host_class="ZImage",
    ),
    Case(
        "omnigen2",
        "OmniGen2",
        partial(build, "Omnigen2", OMNIGEN),
        prompt(attention_mask=WHOLE_PROMPT),
        (
            Layer(r"noise_refiner\.\d+\.attn"),
            Layer(r"layers\.\d+\.attn", before=PROMPT),
        ),
    ),
    Case(
        "omnigen2_references",
        "OmniGen2 with a reference image",
        partial(build, "Omnigen2", OMNIGEN),
        prompt(
            attention_mask=WHOLE_PROMPT,
            reference_latents=[picture(1, 16, 8, 10)],
        ),
        (
            Layer(r"noise_refiner\.\d+\.attn"),
            Layer(r"layers\.\d+\.attn", before=(*PROMPT, *REFERENCE)),
        ),
    ),
    Case(
        "boogu_references",
        "Boogu with a reference image",
        partial(build, "Boogu", BOOGU),
        prompt(
            attention_mask=WHOLE_PROMPT,
            reference_latents=[picture(1, 16, 8, 10)],
        ),
        (
            Layer(r"noise_refiner\.\d+\.attn"),
            Layer(
                r"double_stream_layers\.\d+\.img_instruct_attn\.processor",
                before=(*PROMPT, *REFERENCE),
            ),
            Layer(r"double_stream_layers\.\d+\.img_self_attn", before=REFERENCE),
            Layer(
                r"single_stream_layers\.\d+\.attn",
                before=(*PROMPT, *REFERENCE),
                mixed=("text", "reference", "picture"),
            ),
        ),
        host_class="Boogu",
    ),
)

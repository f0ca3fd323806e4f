"""Transformers built like Lumina: image and text are refined apart, then mixed."""

import inspect

from comfy.ldm.lumina.model import NextDiT

from .case import (
    PIXELS,
    PROMPT,
    REFERENCE,
    WHOLE_PROMPT,
    WIDTH,
    Case,
    Layer,
    image,
    one_by_one,
    padded_prompt,
    prompt,
)
from .models import Network

LUMINA = Network(
    "Lumina2", in_channels=16, dim=64, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=1,
    qk_norm=True, cap_feat_dim=WIDTH, axes_dims=[8, 12, 12],
)  # fmt: skip
Z_IMAGE = LUMINA.but(
    "ZImage",
    dim=256,  # its modulation has 256 channels in all sizes
    n_kv_heads=2,
    axes_dims=[32, 48, 48],
    rope_theta=256.0,
    ffn_dim_multiplier=1.0,
    z_image_modulation=True,
    time_scale=1000.0,
    pad_tokens_multiple=32,
)
Z_IMAGE_PIXEL = Z_IMAGE.but(
    "ZImagePixelSpace", patch_size=16, in_channels=3, decoder_hidden_size=16,
    decoder_num_res_blocks=1, decoder_max_freqs=4,
)  # fmt: skip
OMNIGEN_BLOCKS = Network(
    "Omnigen2", hidden_size=64, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
    num_kv_heads=1, axes_dim_rope=[8, 12, 12],
)  # fmt: skip
OMNIGEN = OMNIGEN_BLOCKS.but(text_feat_dim=WIDTH)
BOOGU = OMNIGEN_BLOCKS.but("Boogu", num_double_stream_layers=1, instruction_feat_dim=WIDTH)
Z_IMAGE_PROMPT = (("text", 32),)  # with its padding, which its refiner mixes with it
Z_IMAGE_REFERENCE = (*REFERENCE, ("padding", 12))
# The oldest host takes no reference images for it.
NO_REFERENCES = "siglip_feat_dim" not in inspect.signature(NextDiT).parameters


def refined_and_mixed(attention, prefix, refined_prefix=(), mixed=(), **keys):
    """The layers that see the image alone, or after `refined_prefix`, and those of all tokens."""
    return (
        Layer(rf"noise_refiner\.\d+\.{attention}", refined_prefix, **keys),
        Layer(rf"layers\.\d+\.{attention}", prefix, mixed=mixed, **keys),
    )


WITH_MASK = prompt(attention_mask=WHOLE_PROMPT)
WITH_REFERENCE = prompt(attention_mask=WHOLE_PROMPT, reference_latents=[image(1, 16, 8, 10)])
BOOGU_TOKENS = (*PROMPT, *REFERENCE)

REFINED = (
    Case("lumina2", "Lumina 2", LUMINA, refined_and_mixed("attention", PROMPT), WITH_MASK),
    Case(
        "lumina2_padded", "Lumina 2 with a padded prompt", LUMINA,
        refined_and_mixed("attention", PROMPT),
        one_by_one(prompt(attention_mask=padded_prompt()), attention_mask=WHOLE_PROMPT),
    ),
    Case(
        "z_image", "Z-Image", Z_IMAGE, refined_and_mixed("attention", Z_IMAGE_PROMPT, multiple=32),
        WITH_MASK,
    ),
    Case(
        "z_image_pixel", "Z-Image on pixels", Z_IMAGE_PIXEL,
        refined_and_mixed("attention", Z_IMAGE_PROMPT, patch=16, multiple=32), WITH_MASK,
        sizes=PIXELS,
    ),
    Case(
        "z_image_references",
        "Z-Image with a reference image",
        Z_IMAGE,
        refined_and_mixed(
            "attention",
            # In front of the prompt is the caption of the reference image, here padding only.
            (*Z_IMAGE_PROMPT, *Z_IMAGE_PROMPT, *Z_IMAGE_REFERENCE),
            Z_IMAGE_REFERENCE,
            mixed=("image", "reference"),
            multiple=32,
        ),
        WITH_REFERENCE,
        ignored=NO_REFERENCES,
    ),
    Case("omnigen2", "OmniGen2", OMNIGEN, refined_and_mixed("attn", PROMPT), WITH_MASK),
    Case(
        "omnigen2_references", "OmniGen2 with a reference image", OMNIGEN,
        refined_and_mixed("attn", (*PROMPT, *REFERENCE)), WITH_REFERENCE,
    ),
    Case(
        "boogu_references", "Boogu with a reference image", BOOGU,
        (
            Layer(r"noise_refiner\.\d+\.attn"),
            Layer(r"double_stream_layers\.\d+\.img_instruct_attn\.processor", BOOGU_TOKENS),
            Layer(r"double_stream_layers\.\d+\.img_self_attn", REFERENCE),
            Layer(
                r"single_stream_layers\.\d+\.attn", BOOGU_TOKENS,
                mixed=("text", "reference", "image"),
            ),
        ),
        WITH_REFERENCE,
    ),
)  # fmt: skip

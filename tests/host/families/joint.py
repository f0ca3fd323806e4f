"""Other transformers in which image and text attend to each other."""

import torch

from .case import (
    PIXELS,
    POOLED,
    PROMPT,
    REFERENCE,
    SMALL,
    WIDTH,
    Case,
    Layer,
    image,
    padded_prompt,
    prompt,
)
from .models import Network

HEADS = {"num_attention_heads": 2, "attention_head_dim": 32}
ROPE = {"axes_dims_rope": (8, 12, 12)}
SD3 = Network(
    "SD3", in_channels=16, depth=2, adm_in_channels=WIDTH,
    context_embedder_config={
        "target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 128},
    },
    num_patches=32 * 32, pos_embed_max_size=32, qk_norm="rms",
)  # fmt: skip
AURA = Network(
    "AuraFlow", dim=64, n_layers=4, n_double_layers=2, n_heads=2, global_conddim=64,
    cond_seq_dim=WIDTH, max_seq=16 * 16,
)  # fmt: skip
QWEN = Network("QwenImage", num_layers=2, joint_attention_dim=WIDTH, **HEADS, **ROPE)
HIDREAM = Network(
    "HiDream", patch_size=2, in_channels=16, num_layers=2, num_single_layers=2,
    caption_channels=[WIDTH, WIDTH], text_emb_dim=WIDTH, num_routed_experts=2,
    num_activated_experts=1, llama_layers=[0, 1, 2, 3], **HEADS, **ROPE,
)  # fmt: skip
KREA = Network(
    "Krea2", features=64, layers=2, heads=2, kvheads=1, multiplier=2, txtdim=WIDTH, txtlayers=2,
    txtheads=2, txtkvheads=2,
)  # fmt: skip
LENS = Network(
    "Lens", num_layers=2, enc_hidden_dim=WIDTH, selected_layer_index=(0, 1), **HEADS, **ROPE,
)  # fmt: skip
ERNIE = Network(
    "ErnieImage", hidden_size=64, num_attention_heads=2, num_layers=2, ffn_hidden_size=64,
    text_in_dim=WIDTH, rope_axes_dim=(8, 12, 12),
)  # fmt: skip
JOY = Network(
    "JoyImage", fixed={"rope_dim_list": [8, 12, 12]}, hidden_size=64, num_layers=2,
    num_attention_heads=2, text_dim=WIDTH,
)  # fmt: skip
MAGE = Network("MageFlow", num_layers=2, joint_attention_dim=WIDTH, **HEADS, **ROPE)
IDEOGRAM = Network(
    "Ideogram4",
    fixed={
        "intermediate_size": 64, "adaln_dim": 32, "llm_features_dim": WIDTH,
        "mrope_section": [8, 4, 4], **HEADS,
    },
    num_layers=2,
)  # fmt: skip
PIXEL_DIT = Network(
    "PixelDiTT2I", num_groups=2, hidden_size=64, pixel_hidden_size=8, pixel_attn_hidden_size=32,
    pixel_num_groups=2, patch_depth=2, pixel_depth=1, txt_embed_dim=WIDTH, txt_max_length=12,
)  # fmt: skip
HIDREAM_O1 = Network(
    "HiDreamO1",
    text_config_overrides={
        "hidden_size": 16,  # one row for each of 151936 tokens
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_dims": [4, 2, 2],
    },
    vision_config_overrides={
        "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "depth": 1,
        "num_position_embeddings": 16, "deepstack_visual_indexes": (),
    },
)  # fmt: skip


def layer(modules, prefix=(), **keys):
    """Of the blocks N of the network."""
    return (Layer(modules.replace(".", r"\.").replace("N", r"\d+"), prefix, **keys),)


SD3_LAYERS = layer("joint_blocks.N", PROMPT)
QWEN_LAYERS = layer("transformer_blocks.N.attn", PROMPT)
KREA_PROMPT, REFERENCE_IMAGE = {"width": 2 * WIDTH}, {"reference_latents": [image(1, 16, 1, 8, 10)]}

JOINT = (
    Case("sd3", "Stable Diffusion 3", SD3, SD3_LAYERS, prompt(**POOLED)),
    Case(
        "sd35_medium", "Stable Diffusion 3.5 medium", SD3.but(x_block_self_attn_layers=[0]),
        (*SD3_LAYERS, Layer(r"joint_blocks\.0:2")), prompt(**POOLED),
    ),
    Case(
        "auraflow", "AuraFlow", AURA,
        layer("(double|single)_layers.N.attn", (("register", 8), *PROMPT)),
    ),
    Case("qwen_image", "Qwen-Image", QWEN, QWEN_LAYERS),
    Case(
        "qwen_image_padded", "Qwen-Image with a padded prompt", QWEN, QWEN_LAYERS,
        prompt(attention_mask=padded_prompt()),
    ),
    Case(
        "qwen_image_edit", "Qwen-Image-Edit", QWEN,
        layer("transformer_blocks.N.attn", PROMPT, suffix=REFERENCE), prompt(**REFERENCE_IMAGE),
    ),
    Case(
        "hidream",
        "HiDream I1",
        HIDREAM,
        layer(
            "(double|single)_stream_blocks.N.block.attn1",
            suffix=(*PROMPT, ("text", 5), ("text", 5)),  # T5, last and current layer of Llama
        ),
        prompt(**POOLED, conditioning_llama3=(1, 4, 5, WIDTH)),
        text=("c_crossattn", "encoder_hidden_states_llama3"),
    ),
    Case("krea2", "Krea 2", KREA, layer("blocks.N.attn", PROMPT), prompt(**KREA_PROMPT)),
    Case(
        "krea2_references", "Krea 2 with reference images", KREA,
        layer("blocks.N.attn", PROMPT, suffix=REFERENCE),
        prompt(**KREA_PROMPT, **REFERENCE_IMAGE, reference_latents_method="index"),
    ),
    Case(
        "lens", "Lens", LENS, layer("transformer_blocks.N.attn", suffix=PROMPT, patch=1),
        prompt(width=2 * WIDTH, attention_mask=padded_prompt()), sizes=SMALL,
    ),
    Case(
        "ernie_image", "Ernie-Image", ERNIE,
        layer("layers.N.self_attention", suffix=PROMPT, patch=1), blind="comfy.ldm.ernie.model",
        sizes=SMALL,
    ),
    Case("joyimage", "JoyImage", JOY, layer("double_blocks.N.attn", suffix=PROMPT)),
    Case(
        "joyimage_references", "JoyImage with a reference image", JOY,
        layer("double_blocks.N.attn", suffix=(*REFERENCE, *PROMPT)), prompt(**REFERENCE_IMAGE),
    ),
    Case(
        "mage_flow", "Mage-Flow", MAGE, layer("transformer_blocks.N.attn", PROMPT, patch=1),
        sizes=SMALL,
    ),
    Case(
        "ideogram4",
        "Ideogram 4",
        IDEOGRAM,
        layer("layers.N.attention", (("text", 5), ("padding", 1)), patch=1),
        prompt(attention_mask=padded_prompt()),
        mask_hides_image=True,  # from the padding of the prompt
        sizes=SMALL,
    ),
    Case(
        "pixeldit", "PixelDiT", PIXEL_DIT,
        (
            Layer(r"patch_blocks\.\d+\.attn", PROMPT, patch=16),
            Layer(r"pixel_blocks\.\d+\.attn", patch=16, mixed=("text", "image")),
        ),
        sizes=PIXELS,
    ),
    Case(
        "hidream_o1", "HiDream O1", HIDREAM_O1,
        layer("language_model.layers.N.self_attn", PROMPT, patch=32),
        prompt(text_input_ids=torch.tensor([[151644, 872, 198, 42, 77, 151673]])),
        sizes=((96, 160),), text=("input_ids",),
    ),
)  # fmt: skip

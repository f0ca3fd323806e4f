"""Every image model family of the host, small and random, and how to sample it.

A `Case` is a model with its conditioning, as a user meets them. The models are of the host's own
classes and are made by the host's own configurations, so that conditioning goes through the real
`extra_conds`. A family that a host does not have is told by the classes that the host lacks.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import comfy.ldm.chroma.model
import comfy.ldm.chroma_radiance.model
import comfy.ldm.flux.layers
import comfy.ldm.flux.model
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import pytest
import torch
from bigain.bigain_core.comfyui.dit import DiTModel, DiTModelConfig, label_conditioning
from bigain.bigain_core.models.dit import DiTConfig
from comfy.ldm.cosmos.predict2 import MiniTrainDIT
from comfy.ldm.hunyuan_video.model import HunyuanVideoParams
from comfy.ldm.lumina.model import NextDiT

CPU = torch.device("cpu")
TEXT = 6  # tokens of a prompt
WIDTH = 24  # channels of a prompt's tokens

# Small models of the host's classes


def fill(network, seed=0):
    """Random weights, scaled by fan-in, and small random biases; norms stay at one."""
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    tables = ("pos_embed", "y_embedding")  # weights that the host keeps as buffers
    buffers = [(name, table) for name, table in network.named_buffers() if name.endswith(tables)]
    for name, weight in [*network.named_parameters(), *buffers]:
        if weight.ndim < 2 and not name.endswith("bias"):
            weight.data.fill_(1.0)
            continue
        scale = weight[0].numel() ** -0.5 if weight.ndim >= 2 else 0.1
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * scale)


def patcher(model):
    fill(model.diffusion_model)
    model.diffusion_model.eval()
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def build(name, config, state=None, fixed=None, dtype=torch.float32, cast_to=None):
    """A model by the host's configuration `name`.

    `state` is what the configuration looks for in a checkpoint, `fixed` replaces entries of the
    network's configuration that are the same for all checkpoints of the family. Weights are of
    `dtype` and computed with as `cast_to`.
    """
    family = getattr(comfy.supported_models, name)
    if fixed is not None:
        entries = {"unet_extra_config": {**family.unet_extra_config, **fixed}}
        family = type(family.__name__, (family,), entries)
    made = family(dict(config))
    made.set_inference_dtype(dtype, cast_to)
    return patcher(made.get_model(state or {}, "", device=CPU))


def known(parameters, config):
    """The entries of a network's configuration that this version of the host has."""
    fields = {field.name for field in dataclasses.fields(parameters)}
    return {key: config[key] for key in config if key in fields | {"image_model"}}


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
SD3 = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "depth": 2,
    "input_size": None,
    "adm_in_channels": WIDTH,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": WIDTH, "out_features": 128},
    },
    "num_patches": 32 * 32,
    "pos_embed_max_size": 32,
    "pos_embed_scaling_factor": None,
    "qk_norm": "rms",
}
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
AURA = {
    "in_channels": 4,
    "out_channels": 4,
    "patch_size": 2,
    "dim": 64,
    "n_layers": 4,
    "n_double_layers": 2,
    "n_heads": 2,
    "global_conddim": 64,
    "cond_seq_dim": WIDTH,
    "max_seq": 16 * 16,
}
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
QWEN = {
    "image_model": "qwen_image",
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (8, 12, 12),
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
HIDREAM = {
    "image_model": "hidream",
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "caption_channels": [WIDTH, WIDTH],
    "text_emb_dim": WIDTH,
    "num_routed_experts": 2,
    "num_activated_experts": 1,
    "axes_dims_rope": [8, 12, 12],
    "max_resolution": [64, 64],
    "llama_layers": [0, 1, 2, 3],
}
LTXV = {
    "image_model": "ltxv",
    "in_channels": 128,
    "cross_attention_dim": 64,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "caption_channels": WIDTH,
    "num_layers": 2,
}
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
KREA = {
    "image_model": "krea2",
    "features": 64,
    "channels": 16,
    "patch": 2,
    "layers": 2,
    "heads": 2,
    "kvheads": 1,
    "multiplier": 2,
    "txtdim": WIDTH,
    "txtlayers": 2,
    "txtheads": 2,
    "txtkvheads": 2,
}
LENS = {
    "image_model": "lens",
    "in_channels": 128,
    "out_channels": 32,
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "enc_hidden_dim": WIDTH,
    "axes_dims_rope": (8, 12, 12),
    "selected_layer_index": (0, 1),
}
ERNIE = {
    "image_model": "ernie",
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_layers": 2,
    "ffn_hidden_size": 64,
    "text_in_dim": WIDTH,
    "rope_axes_dim": (8, 12, 12),
}
JOY = {
    "image_model": "joyimage",
    "in_channels": 16,
    "hidden_size": 64,
    "patch_size": [1, 2, 2],
    "num_layers": 2,
    "num_attention_heads": 2,
    "text_dim": WIDTH,
}
MAGE = {
    "image_model": "mage_flow",
    "in_channels": 128,
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (8, 12, 12),
}
IDEOGRAM = {"image_model": "ideogram4", "in_channels": 128, "num_layers": 2}
IDEOGRAM_FIXED = {
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "intermediate_size": 64,
    "adaln_dim": 32,
    "llm_features_dim": WIDTH,
    "mrope_section": [8, 4, 4],
}
BOOGU = {
    **{key: OMNIGEN[key] for key in OMNIGEN if key != "text_feat_dim"},
    "image_model": "boogu",
    "num_double_stream_layers": 1,
    "instruction_feat_dim": WIDTH,
}
PIXEL_DIT = {
    "image_model": "pixeldit_t2i",
    "num_groups": 2,
    "hidden_size": 64,
    "pixel_hidden_size": 8,
    "pixel_attn_hidden_size": 32,
    "pixel_num_groups": 2,
    "patch_depth": 2,
    "pixel_depth": 1,
    "txt_embed_dim": WIDTH,
    "txt_max_length": 12,
}
HIDREAM_O1 = {
    "image_model": "hidream_o1",
    "text_config_overrides": {
        "hidden_size": 16,  # one row for each of 151936 tokens
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_dims": [4, 2, 2],
    },
    "vision_config_overrides": {
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 32,
        "depth": 1,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": (),
    },
}


def build_hunyuan_video():
    return build("HunyuanVideo", known(HunyuanVideoParams, HUNYUAN_VIDEO))


def anima():
    """Its adapter of the text is of one size, 33 million weights in the table of tokens alone."""
    import comfy.ldm.anima.model as module

    small = {"source_dim": WIDTH, "target_dim": WIDTH, "model_dim": 32}
    with pytest.MonkeyPatch.context() as changed:
        adapter = partial(module.LLMAdapter, **small, num_layers=1, num_heads=2)
        changed.setattr(module, "LLMAdapter", adapter)
        return build("Anima", {**COSMOS, "image_model": "anima"})


def own_dit(classes=5):
    config = DiTModelConfig(DiTConfig(8, 2, 4, 64, 2, 1, classes, learn_sigma=True))
    config.set_inference_dtype(torch.float32, None)
    return patcher(DiTModel(config, ()))


# Cases


@dataclass(frozen=True)
class Layer:
    """Where the keys of the picture lie in some attention layers.

    `modules` is a regular expression for the names of the modules that own them; ":2" follows a
    name for the second attention that the same module computes. The keys are those of `before`,
    then frames x rows x columns of the picture, each token a square of `patch`, then those of
    `after`; both list kinds of tokens with their number. Where the picture is padded, its tokens
    are a multiple of `multiple`. Earlier layers have mixed tokens of the kinds `mixed`, and
    convolutions may carry a change `reach` tokens away.
    """

    modules: str
    before: tuple[tuple[str, int], ...] = ()
    after: tuple[tuple[str, int], ...] = ()
    patch: int = 2
    multiple: int = 1
    mixed: tuple[str, ...] = ()
    reach: int = 0


@dataclass(frozen=True)
class Case:
    """A model with conditioning as a user meets them, and what is true of its attention.

    `apart` are layers whose keys depend on the picture, but are no tokens of one picture. `blind`
    is the host's module that computes attention without passing the transformer options. A mask
    may hide tokens of the picture from some queries.
    """

    name: str
    words: str
    build: Callable[[], comfy.model_patcher.ModelPatcher]
    conditioning: Callable[[int], list]
    layers: tuple[Layer, ...]
    host_class: str | None = None  # of comfy.supported_models
    channels: int = 16
    frames: int | None = None  # of a latent with a dimension for time
    batch: int = 1
    sizes: tuple[tuple[int, int], ...] = ((12, 20), (13, 19))
    apart: str = "none"
    blind: str | None = None
    mask_hides_picture: bool = False
    text: tuple[str, ...] = ("c_crossattn",)  # inputs of the network
    references: tuple[str, ...] = ("ref_latents",)

    @property
    def missing(self) -> str:
        """Why the host cannot run this case, empty if it can."""
        if self.host_class is None or hasattr(comfy.supported_models, self.host_class):
            return ""
        return f"this host has no comfy.supported_models.{self.host_class}"

    @cached_property
    def model(self) -> comfy.model_patcher.ModelPatcher:
        return self.build()

    def noise(self, size=None, batch=None) -> torch.Tensor:
        """(B, C, H, W) or (B, C, T, H, W)"""
        time = () if self.frames is None else (self.frames,)
        shape = (batch or self.batch, self.channels, *time, *(size or self.sizes[0]))
        return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def guided(model, noise, positive, negative, steps=2, cfg=3.0, sampler="euler"):
    """A run of a few steps through the host's guider, from `noise` to a latent of its shape."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    chosen = comfy.samplers.sampler_object(sampler)
    return guider.sample(noise, torch.zeros_like(noise), chosen, sigmas, disable_pbar=True, seed=7)


def sample(case, model, size=None, batch=None, **options):
    noise = case.noise(size, batch)
    return guided(model, noise, case.conditioning(0), case.conditioning(1), **options)


def prompt(width=WIDTH, length=TEXT, **extra):
    """Conditioning in the host's format; of the extra entries, those that are tuples are shapes."""

    def conditioning(number):
        generator = torch.Generator().manual_seed(100 + number)
        tokens = torch.randn(1, length, width, generator=generator)
        entries = {
            key: torch.randn(value, generator=generator) if isinstance(value, tuple) else value
            for key, value in extra.items()
        }
        return [[tokens, entries]]

    return conditioning


def one_by_one(conditioning, **negative):
    """With other entries for the negative prompt the host calls the network for one at a time.

    Some networks fail in the host where both are in a batch.
    """

    def chosen(number):
        [[tokens, entries]] = conditioning(number)
        changed = entries | negative if number else entries
        return [[tokens, {key: changed[key] for key in changed if changed[key] is not None}]]

    return chosen


def picture(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(99))


def padded_prompt(length=TEXT):
    """A mask in which the last token is none: (1, L), long."""
    return (torch.arange(length) < length - 1).long()[None]


WHOLE_PROMPT = torch.ones(1, TEXT, dtype=torch.long)  # a mask that hides nothing
PROMPT = (("text", TEXT),)
REFERENCE = (("reference", 4 * 5),)  # tokens of a latent of 8 x 10
Z_IMAGE_PROMPT = (("text", 32),)  # with its padding, which its refiner mixes with it
POOLED = {"pooled_output": (1, WIDTH)}
SMALL = ((6, 10), (7, 9))  # where every element of the latent is a token
EVEN = ((12, 20),)  # families that fail in the host where the patch does not divide the latent

UNET_FINE = r"(input_blocks\.1|output_blocks\.[23])\.1\.transformer_blocks\.0\.attn1"
UNET_COARSE = r"(input_blocks\.3|middle_block|output_blocks\.[01])\.1\.transformer_blocks\.0\.attn1"
XL_FINE = r"(input_blocks\.3|output_blocks\.[23])\.1\.transformer_blocks\.0\.attn1"
XL_COARSE = r"(input_blocks\.5|middle_block|output_blocks\.[01])\.1\.transformer_blocks\.0\.attn1"
UNET_LAYERS = (
    Layer(UNET_FINE, patch=1, reach=1),
    Layer(UNET_COARSE, patch=2, mixed=("text", "picture"), reach=1),
)
XL_LAYERS = (
    Layer(XL_FINE, patch=2, reach=1),
    Layer(XL_COARSE, patch=4, mixed=("text", "picture"), reach=1),
)
STREAMS = r"(double|single)_blocks\.\d+"

# Hosts before February 2026 put the picture in front of the text.
HUNYUAN_FLIPPED = (
    "flipped_img_txt" in inspect.signature(comfy.ldm.flux.layers.DoubleStreamBlock).parameters
)


def hunyuan_layers(*in_front_of_picture, patch=2):
    if HUNYUAN_FLIPPED:
        return (Layer(STREAMS, before=in_front_of_picture, after=PROMPT, patch=patch),)
    return (Layer(STREAMS, before=(*PROMPT, *in_front_of_picture), patch=patch),)


# Older hosts leave the padding of Lumina's prompt out, newer ones keep it.
LUMINA_KEEPS_PADDING = "pad_tokens_multiple" in inspect.signature(NextDiT).parameters
LUMINA_PADDED_PROMPT = PROMPT if LUMINA_KEEPS_PADDING else (("text", TEXT - 1),)

# Older hosts do not pad for Cosmos.
COSMOS_PADS = "pad_to_patch_size" in MiniTrainDIT._forward.__code__.co_names
COSMOS_SIZES = ((12, 20), (13, 19)) if COSMOS_PADS else EVEN


CASES = (
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
                reach=1,
            ),
        ),
        text=("clip_text", "clip_text_pooled", "clip_img"),
        sizes=SMALL,
    ),
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
        "sd3",
        "Stable Diffusion 3",
        partial(build, "SD3", SD3),
        prompt(**POOLED),
        (Layer(r"joint_blocks\.\d+", before=PROMPT),),
    ),
    Case(
        "sd35_medium",
        "Stable Diffusion 3.5 medium",
        partial(build, "SD3", {**SD3, "x_block_self_attn_layers": [0]}),
        prompt(**POOLED),
        (Layer(r"joint_blocks\.\d+", before=PROMPT), Layer(r"joint_blocks\.0:2")),
    ),
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
        "auraflow",
        "AuraFlow",
        partial(build, "AuraFlow", AURA),
        prompt(),
        (Layer(r"(double|single)_layers\.\d+\.attn", before=(("register", 8), *PROMPT)),),
        channels=4,
    ),
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
        "qwen_image",
        "Qwen-Image",
        partial(build, "QwenImage", QWEN),
        prompt(),
        (Layer(r"transformer_blocks\.\d+\.attn", before=PROMPT),),
        frames=1,
    ),
    Case(
        "qwen_image_padded",
        "Qwen-Image with a padded prompt",
        partial(build, "QwenImage", QWEN),
        prompt(attention_mask=padded_prompt()),
        (Layer(r"transformer_blocks\.\d+\.attn", before=PROMPT),),
        frames=1,
    ),
    Case(
        "qwen_image_edit",
        "Qwen-Image-Edit",
        partial(build, "QwenImage", QWEN),
        prompt(reference_latents=[picture(1, 16, 1, 8, 10)]),
        (Layer(r"transformer_blocks\.\d+\.attn", before=PROMPT, after=REFERENCE),),
        frames=1,
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
        sizes=EVEN,  # the reference has the size of the picture
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
        "hidream",
        "HiDream I1",
        partial(build, "HiDream", HIDREAM),
        prompt(**POOLED, conditioning_llama3=(1, 4, 5, WIDTH)),
        (
            Layer(
                r"(double|single)_stream_blocks\.\d+\.block\.attn1",
                after=(*PROMPT, ("text", 5), ("text", 5)),  # T5, last and current layer of Llama
            ),
        ),
        text=("c_crossattn", "encoder_hidden_states_llama3"),
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
    # Families of newer hosts
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
        "krea2",
        "Krea 2",
        partial(build, "Krea2", KREA),
        prompt(width=2 * WIDTH),
        (Layer(r"blocks\.\d+\.attn", before=PROMPT),),
        host_class="Krea2",
        frames=1,
    ),
    Case(
        "krea2_references",
        "Krea 2 with reference images",
        partial(build, "Krea2", KREA),
        prompt(
            width=2 * WIDTH,
            reference_latents=[picture(1, 16, 1, 8, 10)],
            reference_latents_method="index",
        ),
        (Layer(r"blocks\.\d+\.attn", before=PROMPT, after=REFERENCE),),
        host_class="Krea2",
        frames=1,
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
    Case(
        "lens",
        "Lens",
        partial(build, "Lens", LENS),
        prompt(width=2 * WIDTH, attention_mask=padded_prompt()),
        (Layer(r"transformer_blocks\.\d+\.attn", after=PROMPT, patch=1),),
        host_class="Lens",
        channels=128,
        sizes=SMALL,
    ),
    Case(
        "ernie_image",
        "Ernie-Image",
        partial(build, "ErnieImage", ERNIE),
        prompt(),
        (Layer(r"layers\.\d+\.self_attention", after=PROMPT, patch=1),),
        host_class="ErnieImage",
        channels=128,
        blind="comfy.ldm.ernie.model",
        sizes=SMALL,
    ),
    Case(
        "joyimage",
        "JoyImage",
        partial(build, "JoyImage", JOY, fixed={"rope_dim_list": [8, 12, 12]}),
        prompt(),
        (Layer(r"double_blocks\.\d+\.attn", after=PROMPT),),
        host_class="JoyImage",
        frames=1,
    ),
    Case(
        "joyimage_references",
        "JoyImage with a reference image",
        partial(build, "JoyImage", JOY, fixed={"rope_dim_list": [8, 12, 12]}),
        prompt(reference_latents=[picture(1, 16, 1, 8, 10)]),
        (Layer(r"double_blocks\.\d+\.attn", after=(*REFERENCE, *PROMPT)),),
        host_class="JoyImage",
        frames=1,
    ),
    Case(
        "mage_flow",
        "Mage-Flow",
        partial(build, "MageFlow", MAGE),
        prompt(),
        (Layer(r"transformer_blocks\.\d+\.attn", before=PROMPT, patch=1),),
        host_class="MageFlow",
        channels=128,
        sizes=SMALL,
    ),
    Case(
        "ideogram4",
        "Ideogram 4",
        partial(build, "Ideogram4", IDEOGRAM, fixed=IDEOGRAM_FIXED),
        prompt(attention_mask=padded_prompt()),
        (Layer(r"layers\.\d+\.attention", before=(("text", 5), ("padding", 1)), patch=1),),
        host_class="Ideogram4",
        channels=128,
        mask_hides_picture=True,  # from the padding of the prompt
        sizes=SMALL,
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
    Case(
        "pixeldit",
        "PixelDiT",
        partial(build, "PixelDiTT2I", PIXEL_DIT),
        prompt(),
        (
            Layer(r"patch_blocks\.\d+\.attn", before=PROMPT, patch=16),
            Layer(r"pixel_blocks\.\d+\.attn", patch=16, mixed=("text", "picture")),
        ),
        host_class="PixelDiTT2I",
        channels=3,
        sizes=((96, 160), (104, 150)),
    ),
    Case(
        "hidream_o1",
        "HiDream O1",
        partial(build, "HiDreamO1", HIDREAM_O1),
        prompt(text_input_ids=torch.tensor([[151644, 872, 198, 42, 77, 151673]])),
        (Layer(r"language_model\.layers\.\d+\.self_attn", before=PROMPT, patch=32),),
        host_class="HiDreamO1",
        channels=3,
        sizes=((96, 160),),
        text=("input_ids",),
    ),
)

NAMED = {case.name: case for case in CASES}


def parametrized(names, values):
    """`values` maps the id of a test to its arguments, the case first."""
    skipped = {
        key: pytest.mark.skipif(bool(arguments[0].missing), reason=arguments[0].missing)
        for key, arguments in values.items()
    }
    return pytest.mark.parametrize(
        names, [pytest.param(*values[key], marks=skipped[key], id=key) for key in values]
    )


every_case = parametrized("case", {case.name: (case,) for case in CASES})
every_case_and_size = parametrized(
    "case, size",
    {f"{case.name}-{h}x{w}": (case, (h, w)) for case in CASES for h, w in case.sizes},
)

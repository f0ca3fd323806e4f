"""The class-conditional DiT as a MODEL of the host."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

from ..models.checkpoint import read_checkpoint
from ..models.dit import DiT, DiTConfig
from .key_weights import weighed_attention

CLASS_LABEL = "class_label"  # key of the labels, long (n,), in a conditioning
LATENT_FORMATS = {
    3: comfy.latent_formats.ChromaRadiance,  # pixels as they are
    4: comfy.latent_formats.SD15,  # the published models use Stable Diffusion's autoencoder
}

PIXELS = {3: 1, 4: 8}  # to each side of a place of such a latent


def native_side(model: comfy.model_patcher.ModelPatcher) -> int | None:
    """The side in pixels of the square images that a DiT was made for; None for other models."""
    if not isinstance(model.model, DiTModel):
        return None
    config = model.model.diffusion_model.config
    return config.input_size * PIXELS[config.in_channels]


def label_conditioning(labels: list[int]) -> list:
    """In the host's format. Label k is for image k of a batch, no label for the null class."""
    extra = {CLASS_LABEL: torch.tensor(labels)} if labels else {}
    return [[torch.zeros(1, 1, 1), extra]]  # other nodes expect an embedding, the model ignores it


class HostDiT(DiT):
    """The network with the host's layers, attention and calling convention."""

    def __init__(self, image_model, dtype=None, device=None, operations=None, **shape):
        super().__init__(DiTConfig(**shape), operations, dtype, device)
        self.dtype = dtype

    def forward(
        self, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs
    ):
        """x (B, C, H, W), timesteps (B,) in [0, 1000), classes y (B,) -> prediction, shape of x."""
        options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timesteps, context, y, control, options, **kwargs)

    def _forward(self, x, timesteps, context, y, control, transformer_options, **kwargs):
        def attention(q, k, v, heads, mask=None):
            comfy.model_management.throw_exception_if_processing_interrupted()
            return weighed_attention(q, k, v, heads, mask, transformer_options=transformer_options)

        return super().forward(x, timesteps, y, attention)


MODEL_TYPES = {
    "eps": comfy.model_base.ModelType.EPS,
    "v": comfy.model_base.ModelType.V_PREDICTION,
}


class DiTModel(comfy.model_base.BaseModel):
    """Its conditioning is a class label; without one, the null class of guidance."""

    def __init__(self, model_config, class_names: tuple[str, ...]):
        kind = MODEL_TYPES[model_config.unet_config["predicts"]]
        super().__init__(model_config, kind, unet_model=HostDiT)
        self.class_names = class_names

    def extra_conds(self, **kwargs):
        null = torch.tensor([self.diffusion_model.config.num_classes])
        labels = kwargs.get(CLASS_LABEL, null)
        return {"y": comfy.conds.CONDRegular(labels.to(kwargs["device"]))}


class DiTModelConfig(comfy.supported_models_base.BASE):
    unet_config = {"image_model": "dit_class"}
    unet_extra_config = {}
    sampling_settings = {
        "beta_schedule": "sqrt_linear",  # the host's name for betas that are linear
        "linear_start": 0.0001,
        "linear_end": 0.02,
        "timesteps": 1000,
    }
    memory_usage_factor = 0.5

    def __init__(self, config: DiTConfig):
        if config.in_channels not in LATENT_FORMATS:
            raise ValueError(
                "BiGain: expected a DiT on 4-channel Stable Diffusion latents or on 3-channel "
                f"pixels, got {config.in_channels} channels."
            )
        self.latent_format = LATENT_FORMATS[config.in_channels]
        super().__init__({**self.unet_config, **asdict(config)})


def load_dit_model(path: Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """A DiT checkpoint as a MODEL; the steps are those of the host's own diffusion model loader.

    Newer hosts load it again by this where it is to live on another device or without paging.

    Raises ValueError when the file is not a class-conditional DiT.
    """
    checkpoint = read_checkpoint(path)
    management, state = comfy.model_management, dict(checkpoint.state)
    config = DiTModelConfig(checkpoint.config)
    device, offload = management.get_torch_device(), management.unet_offload_device()
    dtypes = list(config.supported_inference_dtypes)
    dtype = management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state),
        supported_dtypes=dtypes,
        weight_dtype=comfy.utils.weight_dtype(state),
    )
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, dtypes))
    model = DiTModel(config, checkpoint.class_names)
    plain = comfy.model_patcher.ModelPatcher
    kind = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    patcher = kind(model, load_device=device, offload_device=offload)
    # Newer hosts may page weights from the file; their layers then hold no storage to copy into.
    paged = {"assign": True} if kind is not plain and patcher.is_dynamic() else {}
    model.to(offload).load_model_weights(state, "", **paged)
    patcher.cached_patcher_init = (load_dit_model, (path,))
    return patcher

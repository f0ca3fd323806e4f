"""A small UNet of the host's own class, prompted with words: "row-striped disc", "digit 7".

Like Stable Diffusion it predicts noise on that noise schedule and attends to one embedding for each
word of a prompt; a table of words stands in for the text encoder, pixels for latents. It knows the
classes of `benchmarks.data`; `python -m benchmarks.train_unet` makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.data import CLASS_NAMES, SIZE
from benchmarks.networks import UNET

if TYPE_CHECKING:  # importable only inside the host
    from comfy.model_patcher import ModelPatcher

WEIGHTS = Path(__file__).parent / "models" / "small_unet.safetensors"
WORD_TABLE = "words.weight"  # its key beside those of the network
WORDS = ("", *dict.fromkeys(word for name in CLASS_NAMES for word in name.split()))
WORD_WIDTH = 64
CONFIG = {
    **UNET,
    "image_size": SIZE,
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "transformer_depth": [1, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1],
    "use_linear_in_transformer": True,
    "context_dim": WORD_WIDTH,
    "num_head_channels": 32,
}


def load(path: Path = WEIGHTS) -> tuple[ModelPatcher, Callable[[Sequence[str]], list[list]]]:
    """The host's MODEL and what makes its conditionings, one for each prompt."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models_base

    class SmallUNet(comfy.supported_models_base.BASE):
        unet_extra_config = {}
        latent_format = comfy.latent_formats.ChromaRadiance  # pixels as they are

    device = comfy.model_management.get_torch_device()
    config = SmallUNet(CONFIG)
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, device=device)
    state = load_file(path)
    table = state.pop(WORD_TABLE).float()
    model.diffusion_model.load_state_dict(state)
    model.diffusion_model.eval().requires_grad_(False)
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)
    return patcher, partial(encode, table)


def encode(table: Tensor, prompts: Sequence[str]) -> list[list]:
    """Conditionings in the host's format: a row of the table for each word, "" for no prompt.

    Raises ValueError for a word that the model does not know.
    """
    return [[[table[word_numbers(prompt)][None], {}]] for prompt in prompts]


def word_numbers(prompt: str) -> list[int]:
    """Rows of the word table."""
    words = prompt.split() or [""]
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise ValueError(
            f"BiGain: expected words of {', '.join(WORDS[1:])}, got {unknown[0]!r}. Write a prompt "
            "such as 'row-striped disc' or 'digit 7'."
        )
    return [WORDS.index(word) for word in words]

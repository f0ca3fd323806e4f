"""Train the small UNet: `python -m benchmarks.train_unet --bf16 --host COMFYUI`, an hour or two.

Interrupt it whenever you like: the same command resumes from the last saved step and draws the same
batches as an uninterrupted run.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.data import CLASS_NAMES
from benchmarks.host import enter_host
from benchmarks.small_unet import CONFIG, WEIGHTS, WORD_TABLE, WORDS, word_numbers
from benchmarks.training import Recipe, Stage, argument_parser, initialise, train

STAGES = (
    Stage(3000, 1.5e-3, (0.05, 0.15), digit_share=0.4, crowding=2, weight_limit=10.0),
    Stage(1800, 1e-3, (0.03, 0.10), digit_share=0.5, crowding=1, weight_limit=20.0),
)


class PromptedUNet(nn.Module):
    """The network with its table of words, which reads the prompts of class labels."""

    def __init__(self, config: dict):
        import comfy.ops
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        super().__init__()
        layers = comfy.ops.disable_weight_init
        self.unet = UNetModel(**config, dtype=torch.float32, operations=layers)
        self.words = nn.Embedding(len(WORDS), config["context_dim"])
        prompts = [*map(word_numbers, CLASS_NAMES), 2 * word_numbers("")]
        self.register_buffer("prompts", torch.tensor(prompts))  # (classes and no prompt, 2)

    def forward(self, x: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        context = self.words(self.prompts[labels])  # (B, 2, words' width)
        options = {"optimized_attention_override": _fused}  # others have no gradient or are slow
        return self.unet(x, timesteps, context, transformer_options=options)


def _fused(function, *args, **kwargs) -> Tensor:
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)


def fresh_model(config: dict = CONFIG) -> PromptedUNet:
    """Every residual branch, every transformer and the output start at zero."""
    from comfy.ldm.modules.attention import SpatialTransformer
    from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock

    model = PromptedUNet(config)
    initialise(model)
    last = [model.unet.out[-1]]
    for module in model.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, ResBlock):
            last.append(module.out_layers[-1])
        elif isinstance(module, SpatialTransformer):
            last.append(module.proj_out)
    for layer in last:
        nn.init.zeros_(layer.weight)
    return model


def export(average: PromptedUNet, path: Path) -> None:
    """Write the averaged network under the host's names, and the word table, in fp16."""
    state = {**average.unet.state_dict(), WORD_TABLE: average.words.weight}
    state = {key: value.detach().cpu().half().contiguous() for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


RECIPE = Recipe(fresh_model, "scaled-linear", STAGES, export)


def main() -> None:
    parser = argument_parser(__doc__, WEIGHTS, Path("build/train_unet.pt"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--host", default=os.environ.get("COMFYUI_PATH"), type=Path)
    args = parser.parse_args()
    enter_host(args.host, cpu=args.device == "cpu")
    train(RECIPE, args)


if __name__ == "__main__":
    main()

"""A node pack for the tests alone: the small models of tests/host/families in a graph.

FamilyCheckpoint stands in for a checkpoint with its text encoder and VAE, both small and random;
FamilyClip and SmallSoundVAE for the files of models that have them apart.

The tests copy this folder beside the pack's own and name their repository in BIGAIN_REPOSITORY and
that of the pack in BIGAIN_FOLDER.
"""

import os
import sys
from functools import cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import comfy.sd
import comfy.sd1_clip
import comfy_extras.nodes_lt_audio
import torch
from comfy.taesd.taesd import TAESD
from comfy_api.latest import ComfyAPI, ComfyExtension, io


def imported(name: str, file: Path):
    """By its path: the host has a package `tests` of its own, and its custom nodes no names."""
    spec = spec_from_file_location(name, file)
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@cache
def cases() -> dict:
    """The cases that this host can run, by name."""
    pack = Path(__file__).parents[1] / os.environ["BIGAIN_FOLDER"]
    imported("bigain", pack / "__init__.py")  # for the families
    repository = Path(os.environ["BIGAIN_REPOSITORY"])
    families = imported("families", repository / "tests" / "host" / "families" / "__init__.py")
    return {case.name: case for case in families.CASES if not case.missing}


class CaseNode(io.ComfyNode):
    """A node whose only input is a case."""

    OUTPUTS: tuple[io.Output, ...]

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.__name__,
            category="tests",
            inputs=[io.Combo.Input("case", options=list(cases()))],
            outputs=list(cls.OUTPUTS),
        )


class FamilyModel(CaseNode):
    OUTPUTS = (io.Model.Output(),)

    @classmethod
    def execute(cls, case) -> io.NodeOutput:
        return io.NodeOutput(cases()[case].model)


class SmallText(comfy.sd1_clip.SD1ClipModel):
    """The text encoder of Stable Diffusion 1, whose pooled output is padded to what XL wants.

    Tokens are as wide as a model wants them, a multiple of the encoder's own width.
    """

    POOLED = 1280
    WIDTH = 24
    CONFIG = {
        "hidden_size": 24,  # WIDTH of its case.py
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "hidden_act": "quick_gelu",
        "max_position_embeddings": 77,
        "eos_token_id": 49407,
        "vocab_size": 49408,
    }

    def __init__(self, **options):
        small = partial(comfy.sd1_clip.SDClipModel, textmodel_json_config=self.CONFIG)
        super().__init__(clip_model=small, **options)
        randomise(self)

    def encode_token_weights(self, token_weight_pairs):
        tokens, pooled = super().encode_token_weights(token_weight_pairs)[:2]
        tokens = tokens.repeat(1, 1, self.WIDTH // tokens.shape[-1])
        return tokens, torch.nn.functional.pad(pooled, (0, self.POOLED - pooled.shape[-1]))


def randomise(network: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * scale)


def small_clip(case) -> comfy.sd.CLIP:
    class Text(SmallText):
        WIDTH = case.conditioning(0)[0][0].shape[-1]

    class Target:
        params = {}
        clip = Text
        tokenizer = comfy.sd1_clip.SD1Tokenizer

    return comfy.sd.CLIP(Target)


class SmallVideoVAE:
    """Shows three channels of a latent, whatever their number."""

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """(B, C, T, H, W) -> (B, T, 2 * H, 2 * W, 3), as codecs want even sides"""
        pixels = latent[:, :3].sigmoid().movedim(1, -1)
        return pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)


class SoundVAE:
    """With the attributes by which the host's nodes make an empty latent and a sound of it.

    Older hosts look for all of them on the VAE itself and want its channels first.
    """

    latent_channels, latent_frequency_bins = 8, 16
    sample_rate = output_sample_rate = audio_sample_rate = 8000
    channels_first = "VAEEncodeAudio" not in vars(comfy_extras.nodes_lt_audio)

    @property
    def first_stage_model(self):
        return self

    def num_of_latents_from_frames(self, frames: int, rate: float) -> int:
        return frames

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """(B, C, ...) -> (B, samples, 2), in which every element of the latent counts."""
        sound = latent.flatten(1).tanh()[..., None].repeat(1, 1, 2).repeat_interleave(16, 1)
        return sound.movedim(-1, 1) if self.channels_first else sound


def small_vae(case) -> comfy.sd.VAE | SmallVideoVAE:
    if case.audio:
        return SmallVideoVAE()
    network = TAESD()
    randomise(network)
    return comfy.sd.VAE(sd=network.state_dict())


class FamilyCheckpoint(CaseNode):
    OUTPUTS = (io.Model.Output(), io.Clip.Output(), io.Vae.Output())

    @classmethod
    def execute(cls, case) -> io.NodeOutput:
        chosen = cases()[case]
        return io.NodeOutput(chosen.model, small_clip(chosen), small_vae(chosen))


class FamilyClip(CaseNode):
    OUTPUTS = (io.Clip.Output(),)

    @classmethod
    def execute(cls, case) -> io.NodeOutput:
        return io.NodeOutput(small_clip(cases()[case]))


class FamilyVAE(CaseNode):
    OUTPUTS = (io.Vae.Output(),)

    @classmethod
    def execute(cls, case) -> io.NodeOutput:
        return io.NodeOutput(small_vae(cases()[case]))


class SmallSoundVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.__name__, category="tests", inputs=[], outputs=[io.Vae.Output()]
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(SoundVAE())


class FamilyInputs(CaseNode):
    OUTPUTS = (
        io.Conditioning.Output("positive"),
        io.Conditioning.Output("negative"),
        io.Latent.Output("latent"),
    )

    @classmethod
    def execute(cls, case) -> io.NodeOutput:
        chosen = cases()[case]
        latent = {"samples": torch.zeros_like(chosen.noise())}
        return io.NodeOutput(chosen.conditioning(0), chosen.conditioning(1), latent)


class FamilyNodes(ComfyExtension):
    async def on_load(self) -> None:
        """Say that FamilyModel was called FamilyNetwork, and its input `name`."""
        renamed = io.NodeReplace(
            new_node_id="FamilyModel",
            old_node_id="FamilyNetwork",
            old_widget_ids=["name"],
            input_mapping=[{"new_id": "case", "old_id": "name"}],
        )
        await ComfyAPI().node_replacement.register(renamed)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            FamilyModel,
            FamilyCheckpoint,
            FamilyClip,
            FamilyVAE,
            SmallSoundVAE,
            FamilyInputs,
        ]


async def comfy_entrypoint() -> ComfyExtension:
    return FamilyNodes()

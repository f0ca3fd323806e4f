"""A model with conditioning as a user meets them, and how to sample it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import comfy.model_patcher
import comfy.samplers
import torch
from comfy.nested_tensor import NestedTensor
from comfy.utils import pack_latents

TEXT = 6  # tokens of a prompt
WIDTH = 24  # channels of a prompt's tokens


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


def image(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(99))


def padded_prompt(length=TEXT):
    """A mask in which the last token is none: (1, L), long."""
    return (torch.arange(length) < length - 1).long()[None]


@dataclass(frozen=True)
class Layer:
    """Where the keys of the image lie in some attention layers.

    `modules` is a regular expression for the names of the modules that own them; ":2" follows a
    name for the second attention that the same module computes. The keys are those of `prefix`,
    then frames x rows x columns of the image, each token a square of `patch`, then those of
    `suffix`; both list kinds of tokens with their number. Where the image is padded, its tokens
    are a multiple of `multiple`. Earlier layers have mixed tokens of the kinds `mixed`, and
    convolutions may carry a change `spread` tokens away.
    """

    modules: str
    prefix: tuple[tuple[str, int], ...] = ()
    suffix: tuple[tuple[str, int], ...] = ()
    patch: int = 2
    multiple: int = 1
    mixed: tuple[str, ...] = ()
    spread: int = 0


@dataclass(frozen=True)
class Case:
    """A model with conditioning as a user meets them, and what is true of its attention.

    `apart` are layers whose keys depend on the image, but are no tokens of one image. `blind`
    is the host's module that computes attention without passing the transformer options. A mask
    may hide tokens of the image from some queries. Of a model with sound, `channels` are those of
    the video and `audio` (C, ...) is the second stream of its latent.
    """

    name: str
    title: str
    build: Callable[[], comfy.model_patcher.ModelPatcher]
    layers: tuple[Layer, ...]
    conditioning: Callable[[int], list] = prompt()
    frames: int = 1  # of a latent with a dimension for time
    batch: int = 1
    channels: int | None = None
    audio: tuple[int, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ((12, 20), (13, 19))
    apart: str = "none"
    blind: str | None = None
    mask_hides_image: bool = False
    ignored: bool = False  # this host knows the model, but leaves such conditioning out
    text: tuple[str, ...] = ("c_crossattn",)  # inputs of the network
    references: tuple[str, ...] = ("ref_latents",)

    @property
    def missing(self) -> bool:
        """Whether this host lacks the model, or what the case is about."""
        return self.ignored or getattr(self.build, "missing", False)

    @cached_property
    def model(self) -> comfy.model_patcher.ModelPatcher:
        return self.build()

    def noise(self, size=None, batch=None) -> torch.Tensor | NestedTensor:
        """(B, C, H, W) or (B, C, T, H, W), or such a video and its sound"""
        latent = self.model.model.latent_format
        time = (self.frames,) if latent.latent_dimensions == 3 else ()
        batch, size = batch or self.batch, size or self.sizes[0]
        shape = (batch, self.channels or latent.latent_channels, *time, *size)
        generator = torch.Generator().manual_seed(7)
        image = torch.randn(shape, generator=generator)
        if not self.audio:
            return image
        return NestedTensor((image, torch.randn((batch, *self.audio), generator=generator)))


def guided(model, noise, positive, negative, steps=2, cfg=3.0, sampler="euler"):
    """A run of a few steps through the host's guider, from `noise` to a latent of its shape."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    chosen = comfy.samplers.sampler_object(sampler)
    return packed(guider.sample(noise, noise * 0, chosen, sigmas, disable_pbar=True, seed=7))


def packed(latent):
    """The streams of a latent in one tensor (B, 1, n), as the host packs them."""
    return pack_latents(latent.unbind())[0] if latent.is_nested else latent


def sample(case, model, size=None, batch=None, **options):
    noise = case.noise(size, batch)
    return guided(model, noise, case.conditioning(0), case.conditioning(1), **options)


WHOLE_PROMPT = torch.ones(1, TEXT, dtype=torch.long)  # a mask that hides nothing
PROMPT = (("text", TEXT),)
REFERENCE = (("reference", 4 * 5),)  # tokens of a latent of 8 x 10
POOLED = {"pooled_output": (1, WIDTH)}
SMALL = ((6, 10), (7, 9))  # where every element of the latent is a token
EVEN = ((12, 20),)  # families that fail in the host where the patch does not divide the latent
PIXELS = ((96, 160), (104, 150))  # where a token is 16 x 16 pixels

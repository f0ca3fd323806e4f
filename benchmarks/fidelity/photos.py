"""Photographs on larger grids: what is off in the whole network, and in each layer by itself.

The small models never saw photographs nor such grids. What is measured is how close compressed
attention stays to plain attention among thousands of natural tokens, not what the models know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.fidelity.measuring import compressed, predictions, result_files
from benchmarks.fidelity.settings import Setting
from benchmarks.paper.models import Model

PHOTOS = (  # of scikit-image, which ships them
    "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png",
    "hubble_deep_field.jpg", "gravel.png", "grass.png", "brick.png", "camera.png",
)  # fmt: skip
SIDES: Mapping[str, Mapping[int, int]] = {  # pixels a side, by tokens of the finest level
    "small-unet": {1024: 32, 4096: 64, 16384: 128},
    "small-dit": {1024: 64, 4096: 128},
    "bundled-dit": {4096: 128},
}
TIMESTEPS = (100, 300, 900)


def read_photo(name: str, side: int) -> Tensor:
    """The middle square, (1, side, side, 3) in [0, 1]."""
    import skimage

    with Image.open(Path(skimage.__file__).parent / "data" / name) as file:
        photo, edge = file.convert("RGB"), min(file.size)
    left, top = ((length - edge) // 2 for length in photo.size)
    square = photo.crop((left, top, left + edge, top + edge)).resize((side, side), Image.LANCZOS)
    return torch.from_numpy(np.asarray(square) / 255).float()[None]


@dataclass
class Layers:
    """Attention layers of a network: what they get in a plain run, and what they make of it later.

    Each is a module that gets the input and one that returns the output, the same one in a DiT.
    """

    modules: Sequence[tuple[nn.Module, nn.Module]]
    inputs: list[list[Tensor]] = field(init=False)
    outputs: list[list[Tensor]] = field(init=False)

    @classmethod
    def of(cls, network: nn.Module) -> Layers:
        from bigain_core.comfyui.patching.unet import attention_layers as of_unet
        from bigain_core.models.compressed_dit import attention_layers as of_dit

        if hasattr(network, "input_blocks"):
            return cls([(block.norm1, block.attn1) for _, block in of_unet(network)])
        return cls([(layer, layer) for _, layer in of_dit(network)])

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note inputs and outputs of every call."""
        self.inputs, self.outputs = ([[] for _ in self.modules] for _ in range(2))
        with _hooked(
            self.modules,
            lambda n, given: self.inputs[n].append(given),
            lambda n, found: self.outputs[n].append(found),
        ):
            yield

    @contextmanager
    def replayed(self) -> Iterator[list[list[tuple[float, float]]]]:
        """Give every layer what it got, call by call: sums of squares of (error, plain output)."""
        errors: list[list[tuple[float, float]]] = [[] for _ in self.modules]

        def compare(number: int, found: Tensor) -> None:
            plain = self.outputs[number][len(errors[number])].double()
            error = (found.double() - plain).square().sum().item()
            errors[number].append((error, plain.square().sum().item()))

        calls = [iter(given) for given in self.inputs]
        with _hooked(self.modules, lambda n, _: next(calls[n]), compare):
            yield errors


@contextmanager
def _hooked(modules, before, after) -> Iterator[None]:
    """`before` gets a layer's number and input and may return another, `after` its output."""
    handles = []

    def replaced(number: int):
        def hook(module, args):
            other = before(number, args[0])
            return None if other is None else (other, *args[1:])

        return hook

    for number, (first, last) in enumerate(modules):
        handles.append(first.register_forward_pre_hook(replaced(number)))
        handles.append(
            last.register_forward_hook(lambda module, args, out, n=number: after(n, out))
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def attention_error(errors: Sequence[Sequence[tuple[float, float]]]) -> float:
    """Relative square error of the mean compressed layer and call; plain layers have none."""
    shares = [error / size for layer in errors for error, size in layer if error]
    return sum(shares) / max(1, len(shares))


def measure_photos(
    model: Model,
    prompt: str,
    settings: Sequence[Setting],
    photos: Sequence[str],
    side: int,
    folder: Path,
) -> None:
    """Add the photographs that are missing to the results of each setting."""
    from bigain_core.comfyui.classifying.latent_classifier import encode_images

    patchers = {setting: compressed(model, setting) for setting in settings}
    layers = Layers.of(model.loaded.patcher.model.diffusion_model)

    def predicted(patcher, number: int, latents: Tensor) -> tuple[Tensor, dict]:
        found, _, cost = predictions(model, patcher, latents, [prompt], number, TIMESTEPS)
        return found.flatten(1).double(), cost

    with result_files(folder, settings) as files:
        for number, name in enumerate(tqdm(photos, mininterval=10)):
            left = [s for s in settings if name not in files[s].records]
            if not left:
                continue
            latents = encode_images(model.loaded.vae, read_photo(name, side))
            with layers.noted():
                plain, _ = predicted(model.loaded.patcher, number, latents)
            for setting in left:
                found, cost = predicted(patchers[setting], number, latents)
                with layers.replayed() as errors:
                    predicted(patchers[setting], number, latents)
                files[setting].add({
                    "file": name, **cost, "attention": attention_error(errors),
                    "error": (found - plain).square().sum(1).tolist(),
                    "size": plain.square().sum(1).tolist(),
                })  # fmt: skip

"""Images that nodes give with the bundled model, for a process that has entered a host."""

from __future__ import annotations

from functools import cache

import comfy.sd
import torch
from bigain.bigain_core.comfyui.model_token_map import FIRST as FIRST_LAYER
from bigain.bigain_core.comfyui.model_token_map import map_tokens
from bigain.bigain_core.comfyui.patching.attach import attach
from bigain.bigain_core.compression.rules import Rule
from bigain.bigain_core.compression.token_map import TokenMap, token_images
from bigain.bigain_core.methods import (
    BlockMerging,
    KVDownsampling,
    KVSelection,
    Method,
    TokenMerging,
)
from bigain.bigain_core.models import checkpoint
from bigain.bigain_core.placement import LayerId, Placement
from bigain.bigain_core.tokens.grid import TokenGrid
from bigain.nodes.benchmark_node import ALL, BiGainBenchmark
from bigain.nodes.dit_nodes import BUNDLED_NAME, BiGainDiTLabels, BiGainDiTLoader
from bigain.nodes.evidence_nodes import BiGainEvidenceMap, BiGainRankImages
from PIL import Image
from torch import Tensor

from benchmarks.demo import read_image, squares
from benchmarks.demo_drawing import in_a_row, to_image
from benchmarks.registry_images import scene

GRID = TokenGrid(32, 48)  # of the scene; a token of the bundled model has 2 x 2 pixels
SAMPLES = 8  # of the drawing along the side of a pixel, so that its edges are soft
FIRST = LayerId(0, "transformer", 1)
NEARLY_CLEAN, SEED = 0, 0
SHOWN, UNLIKE, ALIKE = "panda", "rocket", "football"
RANKED = ("pizza", "bee", "rocket", "tulip", "star")
WANTED = "rocket"
TRIALS = 8
BENCHMARKED = (1, 3, 96, 96)
ROUNDS = 9
SIDE, SMALL_SIDE = 256, 128


@cache
def model():
    return BiGainDiTLoader.execute(BUNDLED_NAME).args[0]


@cache
def vae():
    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})


def square(drawing: Tensor, side: int = SIDE) -> Image.Image:
    return to_image(drawing).resize((side, side), Image.Resampling.NEAREST)


def own_image(name: str) -> Tensor:
    """(S, S, 3): one of the demo's images."""
    image = read_image(checkpoint.SAMPLES / f"{name}.png")
    return squares([image], image.width)[0]


# What becomes of tokens


@cache
def drawing() -> Tensor:
    """(1, H, W, 3): the registry's sunset in pixels of the bundled model."""
    height, width = 2 * GRID.height, 2 * GRID.width
    fine = torch.from_numpy(scene(width * SAMPLES, height * SAMPLES)).float()
    return fine.reshape(1, height, SAMPLES, width, SAMPLES, 3).mean((2, 4))


def every_token() -> Image.Image:
    alone = TokenMap(FIRST, "off", GRID, torch.arange(GRID.tokens), False, None)
    return to_image(token_images([alone], drawing())[0][0])


def token_maps(method: Method) -> tuple[Image.Image, Image.Image]:
    """Groups and scores."""
    compressed = attach(model(), Rule(method, Placement(layers=(FIRST.number,))))
    positive = BiGainDiTLabels.execute(model(), WANTED).args[0]
    latents = vae().encode(drawing())  # not by the node, which would cut it to a square
    maps = map_tokens(compressed, latents, positive, FIRST_LAYER, NEARLY_CLEAN, SEED)
    groups, scores = token_images(maps, drawing())
    return to_image(groups[0]), to_image(scores[0])


def groups(method: Method) -> Image.Image:
    return token_maps(method)[0]


# What the classifier sees


def evidence(better: str, worse: str) -> Image.Image:
    prompts = BiGainDiTLabels.execute(model(), "").args[2]
    image = own_image(SHOWN)[None]
    overlay, *_ = BiGainEvidenceMap.execute(
        model(), prompts, image, vae(), better, worse, "thorough", 3, SEED
    ).args
    return square(overlay[0])


def evidence_map() -> Image.Image:
    image = square(own_image(SHOWN))
    return in_a_row(image, evidence(SHOWN, UNLIKE), evidence(SHOWN, ALIKE))


def rank_images() -> Image.Image:
    positive, negative, _ = BiGainDiTLabels.execute(model(), WANTED).args
    images = torch.stack([own_image(name) for name in RANKED])
    best_first = BiGainRankImages.execute(
        model(), images, vae(), TRIALS, SEED, positive, negative
    ).args[0]
    return in_a_row(*(square(image, SMALL_SIDE) for image in best_first))


def benchmark() -> Image.Image:
    latent = {"samples": torch.zeros(BENCHMARKED)}
    chart = BiGainBenchmark.execute(model(), latent, ALL, ROUNDS, 0.5).args[1]
    return to_image(chart[0])


# By name without .png; what is measured is another image every time.
DRAWN = {
    "docs/tokens_off": every_token,
    "docs/tokens_lgtm": lambda: groups(TokenMerging(0.7)),
    "docs/tokens_kvd": lambda: groups(KVDownsampling()),
    "web/docs/token_merging": lambda: in_a_row(
        groups(TokenMerging(0.7)), groups(BlockMerging(0.7))
    ),
    "web/docs/kv_downsampling": lambda: in_a_row(
        groups(KVDownsampling()), groups(KVSelection("high", 0.75))
    ),
    "web/docs/token_map": lambda: in_a_row(*token_maps(TokenMerging(0.7))),
    "web/docs/evidence_map": evidence_map,
    "web/docs/rank_images": rank_images,
}
MEASURED = {"web/docs/benchmark": benchmark}

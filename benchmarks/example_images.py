"""Draw the thumbnails of the example workflows.

    python -m benchmarks.example_images

Thumbnails of workflows on the bundled model show what it generates and finds. The others name
checkpoints that are not here: theirs are drawings of what goes in and what is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from benchmarks.demo import SAMPLE_FILES, read_image, squares
from benchmarks.demo_builtin import BuiltinBackend
from benchmarks.demo_drawing import (
    FAINT,
    GRID,
    INK,
    OTHER,
    PAPER,
    SMALL,
    TEXT,
    TRUE,
    Card,
    ranking_chart,
    sample_grid,
    shortened,
    to_image,
)
from benchmarks.demo_report import bars
from benchmarks.demo_run import Question
from benchmarks.demo_whole import SETTING as AUTOMATIC
from benchmarks.dit_runner import DiTRunner
from benchmarks.drawings import SIZE as SAMPLE_SIDE
from benchmarks.methods import BUNDLED_PLACEMENT, OFF
from benchmarks.registry_images import mosaic, scene
from bigain_core.classification import PLANS, SpreadGrid, TrialPlan
from bigain_core.classification.evidence.image_ranking import rank_images
from bigain_core.compression.presets import PRESETS, TABLE_3
from bigain_core.compression.rules import Compression, Rule
from bigain_core.methods import KVDownsampling, TokenMerging
from bigain_core.models.checkpoint import BUNDLED_MODEL, SAMPLES
from bigain_core.placement import Placement
from bigain_core.schedules import AlphaSchedule

FOLDER = Path(__file__).resolve().parent.parent / "example_workflows"
SIZE = (480, 270)  # width, height of a thumbnail
QUALITY = 85  # of JPEG
STEPS, SEED = 20, 7  # as in the workflows
LEFT = 24

GENERATED = ("sunflower", "rocket")
SHOWN = "cactus"
SEEDS, TRIALS = 8, 12
WANTED = "rocket"
RIVALS = (SHOWN, "palm tree", "fir tree", "sunflower", "frog", "tulip")
HYBRID = Compression(
    (
        Rule(TokenMerging(0.7), BUNDLED_PLACEMENT),
        Rule(KVDownsampling(2, AlphaSchedule(0.8, 1.2)), Placement(layers=(3, 4))),
    )
)
PRESET = "DiT: L-GTM 0.7, published blocks"


@cache
def model() -> BuiltinBackend:
    return BuiltinBackend(BUNDLED_MODEL)


def generated(compression: Compression, prompts: Sequence[str] = GENERATED) -> Tensor:
    """(P, 64, 64, 3)"""
    return model().samples(compression, prompts, STEPS, SEED, lambda step: None)


def sample_files(names: Sequence[str]) -> Tensor:
    """(B, 64, 64, 3) in [0, 1]: images of BiGain Sample Images."""
    return squares([read_image(SAMPLES / f"{name}.png") for name in names], SAMPLE_SIDE)


def whole(image: Image.Image) -> Image.Image:
    """All of it, on paper of the size of a thumbnail."""
    return ImageOps.pad(image, SIZE, Image.Resampling.LANCZOS, PAPER)


def blank() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", SIZE, PAPER)
    return image, ImageDraw.Draw(image)


# What the bundled model generates and finds


def quality() -> Image.Image:
    pooled = Compression((Rule(KVDownsampling()),))
    settings = {OFF: Compression(), AUTOMATIC: model().automatic, "IE-KVD factor 2": pooled}
    return whole(sample_grid({name: generated(how) for name, how in settings.items()}, GENERATED))


def hybrid() -> Image.Image:
    settings = {OFF: Compression(), "hybrid": HYBRID, "paper, one click": PRESETS[PRESET]}
    return whole(sample_grid({name: generated(how) for name, how in settings.items()}, GENERATED))


def classified(labels: Sequence[str], settings: dict[str, tuple[Compression, str]]) -> Image.Image:
    """Bars of the leading labels for one image, under models and plans by their names."""
    question = Question(sample_files([SHOWN]), (SHOWN,), labels)
    panels = {}
    for name, (how, plan) in settings.items():
        found = model().classify(how, question.images, labels, PLANS[plan])
        panels[name] = bars(question, SHOWN, found.rankings[0])
    card = Card(question.images[0], SHOWN, panels)
    return whole(ranking_chart([card], "Error of each class above the best one's"))


def classify_image() -> Image.Image:
    merged = Compression((Rule(TokenMerging(0.7), BUNDLED_PLACEMENT),))
    return classified(model().class_names, {"48 classes, L-GTM 0.7": (merged, "paper [5, 20]")})


def sure_or_not() -> Image.Image:
    return classified(RIVALS, {"until it is sure": (Compression(), "balanced")})


def ranked(name: str, images: Tensor, side: int, columns: int) -> Image.Image:
    """(B, 64, 64, 3) by how well the name describes them, best first, in squares of `side`."""
    classes = [*model().classes([name]), model().dit.config.num_classes]
    plan = TrialPlan((TRIALS,), sampler=SpreadGrid())
    denoiser = DiTRunner(model().dit).denoiser(classes)
    ranking = rank_images(denoiser, images.movedim(-1, 1) * 2 - 1, plan)
    image, draw = blank()
    gap = 16
    draw.text((LEFT, 14), f"{name}: best first", INK, TEXT)
    for place, number in enumerate(ranking.order):
        row, column = divmod(place, columns)
        x, y = LEFT + column * (side + gap), 44 + row * (side + gap)
        if place == 0:
            draw.rectangle((x - 5, y - 5, x + side + 4, y + side + 4), TRUE)
        enlarged = to_image(images[number]).resize((side, side), Image.Resampling.NEAREST)
        image.paste(enlarged, (x, y))
    return image


def best_of_seeds() -> Image.Image:
    return ranked(GENERATED[0], generated(Compression(), GENERATED[:1] * SEEDS), 92, SEEDS // 2)


def sort_images() -> Image.Image:
    return ranked(WANTED, sample_files([path.stem for path in SAMPLE_FILES]), 56, 6)


def tag_dataset() -> Image.Image:
    """The images with the tags that the model gives them."""
    labels = [path.stem for path in SAMPLE_FILES]
    images = sample_files(labels)
    found = model().classify(Compression(), images, labels, PLANS["balanced"])
    image, draw = blank()
    side, width, height = 60, 110, 84
    for number, best in enumerate(found.best):
        row, column = divmod(number, 4)
        x, y = LEFT + column * width, 14 + row * height
        square = to_image(images[number]).resize((side, side), Image.Resampling.NEAREST)
        image.paste(square, (x + (width - side) // 2, y))
        tag = shortened(labels[best], width - 6)
        draw.text((x + width / 2, y + side + 6), tag, INK, SMALL, anchor="ma")
    return image


def benchmark() -> Image.Image:
    """Operations, which are the same on every machine, and not times."""
    image, draw = blank()
    settings = {OFF: Compression(), **TABLE_3}
    flops = {name: model().flops(how).compressed for name, how in settings.items()}
    draw.text((LEFT, 12), "Operations of one call of the bundled model", FAINT, TEXT)
    for row, (name, count) in enumerate(flops.items()):
        y = 42 + row * 27
        draw.text((LEFT, y + 9), shortened(name, 190), INK, SMALL, anchor="lm")
        end = 220 + 236 * count / flops[OFF]
        draw.rectangle((220, y, end, y + 18), OTHER if name == OFF else TRUE)
    return image


# Drawings


def asked(what: str, labels: Sequence[str], rest: str) -> Image.Image:
    """An image beside prompts that are ranked for it, without saying how."""
    image, draw = blank()
    side = 190
    drawn = Image.fromarray((scene(side, side) * 255).round().astype(np.uint8))
    image.paste(drawn, (LEFT, 28))
    draw.text((LEFT + side / 2, 28 + side + 8), what, FAINT, SMALL, anchor="ma")
    for row, label in enumerate(labels):
        y = 34 + row * 36
        draw.rectangle((244, y, 456, y + 26), outline=GRID)
        draw.text((254, y + 13), label, INK, SMALL, anchor="lm")
        draw.text((446, y + 13), "?", FAINT, SMALL, anchor="rm")
    draw.text((254, 34 + len(labels) * 36 + 8), rest, FAINT, SMALL)
    return image


def rank_prompts() -> Image.Image:
    prompts = [f"a photo of a {label}" for label in ("sunset", "city", "forest", "lighthouse")]
    return asked("your photo", prompts, "which one explains it best?")


def classify_with_dit() -> Image.Image:
    return asked("your image", ("volcano", "seashore", "alp", "valley"), "ImageNet, DiT-XL/2")


def hires() -> Image.Image:
    """A small image, and a large one cut into tokens as they are left by merging."""
    image, draw = blank()
    large = mosaic(240, 240)
    small = Image.fromarray((scene(120, 120) * 255).round().astype(np.uint8))
    image.paste(small, (LEFT, 114))
    image.paste(large, (216, 6))
    draw.text((LEFT + 60, 240), "1024 px, plain", FAINT, SMALL, anchor="ma")
    draw.text((336, 250), "2048 px, cheaper attention", FAINT, SMALL, anchor="ma")
    draw.line((152, 174, 204, 174), INK, 3)
    draw.polygon([(204, 166), (204, 182), (212, 174)], INK)
    return image


def with_sound(model: str) -> Image.Image:
    """Frames cut into tokens, and their sound left whole."""
    image, draw = blank()
    for number in range(3):
        image.paste(mosaic(180, 120), (LEFT + number * 126, 20 + number * 16))
    for x in range(LEFT, SIZE[0] - LEFT, 4):
        height = 4 + 22 * abs(np.sin(x / 13) * np.cos(x / 47))
        draw.line((x, 206 - height, x, 206 + height), TRUE, 2)
    draw.text((SIZE[0] / 2, 244), f"{model}: cheaper frames, sound left whole", FAINT, SMALL, "ma")
    return image


THUMBNAILS: dict[str, Callable[[], Image.Image]] = {
    "bigain_benchmark": benchmark,
    "bigain_best_of_seeds": best_of_seeds,
    "bigain_classify_image": classify_image,
    "bigain_classify_with_dit_xl_2": classify_with_dit,
    "bigain_compare_quality": quality,
    "bigain_faster_hires_sdxl": hires,
    "bigain_hybrid_and_presets": hybrid,
    "bigain_ltx_2_video_with_sound": partial(with_sound, "LTX-2"),
    "bigain_minimax_h3_video": partial(with_sound, "MiniMax H3"),
    "bigain_rank_prompts_for_photo": rank_prompts,
    "bigain_sort_images": sort_images,
    "bigain_sure_or_not": sure_or_not,
    "bigain_tag_dataset": tag_dataset,
}


def main() -> None:
    for name, draw in THUMBNAILS.items():
        draw().save(FOLDER / f"{name}.jpg", quality=QUALITY, optimize=True)
        print(f"{name}.jpg")


if __name__ == "__main__":
    main()

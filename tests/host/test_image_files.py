"""The images of the README and of the help pages are what their script draws."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import images_of_nodes
from benchmarks.images_of_nodes import DRAWN, MEASURED
from benchmarks.readme_images import GENERATED_AS, PACK, PANELS

LARGEST, ALL_TOGETHER = 40_000, 600_000  # bytes
ANOTHER = 24  # of 255, beyond what rounding on another CPU makes of a colour
HELP = PACK / "web" / "docs"
SHOWN = re.compile(r"!\[[^]]+\]\(([^)]+)\)|<img src=\"([^\"]+)\"[^>]* alt=\"[^\"]+\"")


def shown(page):
    """The images of a page, all of which are described."""
    return [PACK / page.parent / (a or b) for a, b in SHOWN.findall(page.read_text("utf-8"))]


@pytest.fixture(scope="module")
def drawn():
    return {PACK / f"{name}.png" for name in (GENERATED_AS, *DRAWN, *MEASURED, *PANELS)}


def test_every_image_of_a_page_is_drawn_and_every_drawn_image_is_on_a_page(drawn):
    on_pages = {path for page in (PACK / "README.md", *HELP.glob("*.md")) for path in shown(page)}
    assert on_pages == drawn
    assert {path for path in drawn if path.parent == HELP} == set(HELP.glob("*.png"))


def test_images_are_small(drawn):
    sizes = [path.stat().st_size for path in drawn]
    assert max(sizes) <= LARGEST and sum(sizes) <= ALL_TOGETHER


@pytest.mark.parametrize("name", DRAWN)
def test_a_committed_image_is_what_the_nodes_give(name, monkeypatch):
    monkeypatch.setattr(images_of_nodes, "TRIALS", 2)  # few tell the images that are ranked apart
    with torch.inference_mode():
        found = np.asarray(DRAWN[name]()).astype(int)
    committed = np.asarray(Image.open(PACK / f"{name}.png").convert("RGB")).astype(int)
    assert committed.shape == found.shape
    assert (abs(committed - found) > ANOTHER).any(axis=-1).mean() < 0.02

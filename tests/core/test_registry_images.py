"""The registry shows images that are what their script draws, at the addresses it is given."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.registry_images import DOCS, DRAWN

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@pytest.mark.parametrize("name", DRAWN)
def test_a_committed_image_is_what_the_script_draws(name):
    committed = np.asarray(Image.open(DOCS / name)).astype(int)
    drawn = np.asarray(DRAWN[name]()).astype(int)
    assert committed.shape == drawn.shape
    different = (abs(committed - drawn) > 2).any(axis=-1).mean()
    rim_of_letters = 0.01 if name == "banner.png" else 0.0  # with another version of the font
    assert different <= rim_of_letters


def test_sizes_are_those_that_the_registry_takes():
    icon, banner = (Image.open(DOCS / name).size for name in ("icon.png", "banner.png"))
    assert icon[0] == icon[1] <= 400
    assert banner[0] * 9 == banner[1] * 21


def test_the_registry_is_told_where_they_are():
    text = PYPROJECT.read_text("utf-8")
    repository = text.split('Repository = "https://github.com/')[1].split('"')[0]
    for key, name in (("Icon", "icon.png"), ("Banner", "banner.png")):
        raw = f"https://raw.githubusercontent.com/{repository}/main/docs/{name}"
        assert f'{key} = "{raw}"' in text

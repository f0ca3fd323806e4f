"""Drawings that the larger model is trained on: rasters, places in an image, what is held out."""

import io
import json
import tarfile

import pytest
import torch

from benchmarks.drawings import (
    CLASS_NAMES,
    FRAME,
    HELD_OUT,
    NAMES,
    OTHERWISE,
    RASTER,
    STYLES,
    Drawings,
    held_out,
    names_of,
    read_drawings,
    trained,
)

HALF = '<rect width="8" height="16" fill="red" fill-opacity="0.5"/>'
PAIRS = torch.arange(24)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def blue():
    """Every drawing fills its square with opaque blue."""
    rasters = torch.zeros(len(NAMES), len(STYLES), 4, RASTER, RASTER, dtype=torch.uint8)
    rasters[:, :, 2:] = 255
    return Drawings(rasters)


def archive(path, icon):
    slugs = NAMES | OTHERWISE.get(path.stem, {})
    icons = {slug: icon for slug in slugs.values() if slug}
    text = json.dumps({"icons": icons, "width": 16, "height": 16}).encode()
    entry = tarfile.TarInfo("package/icons.json")
    entry.size = len(text)
    with tarfile.open(path, "w:gz") as file:
        file.addfile(entry, io.BytesIO(text))


def test_archives_become_rasters_with_their_alpha(tmp_path):
    for style in STYLES:
        wide = {"width": 32} if style == "twemoji" else {}
        archive(tmp_path / f"{style}.tgz", {"body": HALF, **wide})
    rasters = read_drawings(tmp_path).rasters
    assert rasters.shape == (len(NAMES), len(STYLES), 4, RASTER, RASTER)
    square, wide = rasters[5, STYLES.index("noto")], rasters[7, STYLES.index("twemoji")]
    half, quarter = RASTER // 2, RASTER // 4
    assert (square[:, :, half + 1 :] == 0).all() and (square[1:3] == 0).all()
    assert (square[[0, 3], :, : half - 1].int() - 128).abs().max() <= 1  # red times half, and half
    drawn = wide[3] > 0
    assert not drawn[: quarter - 1].any() and not drawn[3 * quarter + 1 :].any()  # centred
    assert drawn[quarter + 1 : 3 * quarter - 1, : quarter - 1].all()
    assert not drawn[:, quarter + 1 :].any()
    exist = (trained() | held_out()).unflatten(0, rasters.shape[:2])
    assert torch.equal(rasters.flatten(2).any(2), exist)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_drawing_lies_whole_in_the_image_on_a_flat_background(blue, size):
    images = blue.images(PAIRS, seeded(), size)
    assert images.shape == (len(PAIRS), 3, size, size)
    amount = (1 - images[:, 0]) / 2  # of blue, on white
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    background = corners.amax(2)
    assert (background.amin(1) > 1 - 2 * 0.4 - 1e-6).all()
    white = (background == 1).all(1)
    assert 4 < white.sum() < 20
    side = amount[white].sum((1, 2)).sqrt() / size
    assert (side > FRAME[0] - 0.03).all() and (side < FRAME[1] + 0.03).all()


def test_places_differ_and_sizes_show_the_same_image(blue):
    large = blue.images(PAIRS, seeded())
    small = blue.images(PAIRS, seeded(), 16)
    pooled = torch.nn.functional.avg_pool2d(large, 4)
    assert (small - pooled).abs().mean() < 0.05
    assert (large[0] - large[1]).abs().mean() > 0.05
    assert torch.equal(large, blue.images(PAIRS, seeded()))
    assert not torch.equal(large, blue.images(PAIRS, seeded(1)))


def test_varied_drawings_are_mirrored_stretched_and_tinted():
    """A square that is blue on its left and white on its right."""
    rasters = torch.full((len(NAMES), len(STYLES), 4, RASTER, RASTER), 255, dtype=torch.uint8)
    rasters[:, :, :2, :, : RASTER // 2] = 0
    drawings, pairs = Drawings(rasters), torch.zeros(400, dtype=torch.long)
    plain, varied = (drawings.images(pairs, seeded(), varied=flag) for flag in (False, True))
    halves = [(images[..., :32] - images[..., 32:]).mean((1, 2, 3)) for images in (plain, varied)]
    assert (halves[0] < 0).float().mean() > 0.95
    assert (halves[1] < 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert varied.min() >= -1 and varied.max() <= 1
    blue = [images[:, 2, 30:34, 30:34] for images in (plain, varied)]  # of the drawing itself
    assert (blue[0] > 0.99).all() and 0.5 < blue[1].min() < 0.9


def test_drawing_leaves_the_global_random_state_alone(blue):
    state = torch.get_rng_state()
    blue.images(PAIRS, seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_two_makers_of_every_name_are_held_out_and_a_third_of_all_drawings():
    shape = (len(CLASS_NAMES), len(STYLES))
    known, out = trained().unflatten(0, shape), held_out().unflatten(0, shape)
    for name, row in zip(CLASS_NAMES, out, strict=True):
        hidden = {style for style, held in zip(STYLES, row, strict=True) if held}
        group = next(group for group in HELD_OUT if hidden <= set(group))
        lacking = {style for style in group if OTHERWISE.get(style, {}).get(name, name) is None}
        assert hidden == set(group) - lacking
    assert not (known & out).any()
    assert (known | out).sum() == len(STYLES) * len(NAMES) - 8
    assert out.sum() / (known | out).sum() == pytest.approx(1 / 3, abs=0.01)
    assert sorted(style for group in HELD_OUT for style in group) == sorted(STYLES)


def test_a_pair_is_a_name_and_a_style():
    last = len(STYLES) - 1
    pairs = torch.tensor([0, last, last + 1, 48 * len(STYLES) - 1])
    assert names_of(pairs).tolist() == [0, 0, 1, 47]
    assert len(CLASS_NAMES) == 48 and len(set(NAMES.values())) == 48

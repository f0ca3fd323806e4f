"""Image files as users have them: each is read right, or is an UnreadableImageError."""

import os

import numpy as np
import pytest
import torch
from bigain.bigain_core.classification.datasets.image_folder import (
    IMAGE_SUFFIXES,
    UnreadableImageError,
)
from bigain.bigain_core.comfyui.image_files import read_image
from PIL import Image, features


@pytest.mark.parametrize("shape", [(1, 60000), (60000, 1), (3000, 1), (2, 65000), (1, 1), (1, 17)])
def test_a_thin_image_is_its_middle(tmp_path, shape):
    """The middle is white, all that is farther away than 16 short sides is black."""
    pixels = np.full((*shape, 3), 255, dtype=np.uint8)
    for axis in (0, 1):
        far = abs(np.arange(shape[axis]) - shape[axis] / 2) > 8 * min(shape)
        pixels[(slice(None),) * axis + (far,)] = 0
    Image.fromarray(pixels).save(tmp_path / "thin.png")
    found = read_image(tmp_path / "thin.png", 512)
    assert found.shape == (1, 512, 512, 3) and found.min() == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_an_image_16_times_as_long_as_high_is_cut_as_any_other(tmp_path, axis):
    """The last one that is resized as a whole, against one with a strip more on both sides."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 320, 3), dtype=np.uint8)
    longer = np.pad(pixels, ((0, 0), (7, 7), (0, 0)))
    for name, image in (("whole", pixels), ("longer", longer)):
        Image.fromarray(image if axis else image.swapaxes(0, 1)).save(tmp_path / f"{name}.png")
    whole, longer = (read_image(tmp_path / f"{name}.png", 32) for name in ("whole", "longer"))
    assert torch.equal(whole, longer)


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES - {".heic", ".heif", ".jxl"}))
def test_every_kind_of_file_is_read(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    Image.new("RGB", (32, 32), (200, 100, 50)).save(path)
    found = read_image(path, 32)[0].mean((0, 1))
    assert found.tolist() == pytest.approx([200 / 255, 100 / 255, 50 / 255], abs=0.1)


@pytest.mark.parametrize("orientation", ["upside down", b"\x00", (1, 2), 99])
def test_broken_metadata_leave_a_good_image_as_it_is(tmp_path, orientation, monkeypatch):
    path = tmp_path / "photo.jpg"
    Image.new("L", (32, 32), 255).save(path)
    monkeypatch.setattr(Image.Image, "getexif", lambda image: {0x0112: orientation})
    assert read_image(path, 32).mean() == 1


@pytest.mark.timeout(10)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_what_is_no_image_file_is_unreadable_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no")
    for name in ("pipe.png", "loop.png", "folder.png", "empty.png", "text.png", "missing.png"):
        with pytest.raises(UnreadableImageError):
            read_image(tmp_path / name, 32)

"""Images of a labelled set, as they are read from files."""

import numpy as np
import pytest
import torch
from bigain.bigain_core.comfyui.image_files import read_image
from PIL import Image
from torchvision.transforms import v2


@pytest.mark.parametrize("shape", [(40, 100), (101, 37), (64, 64), (20, 90)])
def test_images_are_cut_as_the_paper_does(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = v2.Compose(
        [
            v2.Resize(32, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(32),
            v2.PILToTensor(),
        ]
    )(Image.fromarray(pixels))
    found = read_image(tmp_path / "a.png", 32)
    assert found.shape == (1, 32, 32, 3)
    assert torch.equal((found[0] * 255).round().to(torch.uint8), expected.movedim(0, -1))


def test_sixteen_bits_and_rotated_photos_are_read_as_they_look(tmp_path):
    levels = np.full((32, 32), 32768, dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png", 32).mean().item() == pytest.approx(0.5, abs=0.01)
    half = np.zeros((32, 32, 3), dtype=np.uint8)
    half[:16] = 255  # white above black
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(half).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = read_image(tmp_path / "turned.jpg", 32)[0]
    assert turned[:14].mean() < 0.1 and turned[18:].mean() > 0.9

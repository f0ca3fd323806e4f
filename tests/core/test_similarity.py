"""How alike images are, against other implementations, and the table of a comparison."""

import csv
import io

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from bigain_core.measure.comparison import Comparison, Generated
from bigain_core.measure.similarity import psnr, ssim


def test_structural_similarity_equals_that_of_whole_windows():
    one = np.random.default_rng(0).random((12, 14, 3))
    other = np.clip(one + 0.2 * np.random.default_rng(1).random(one.shape), 0, 1)
    values = []
    for channel in range(3):
        x, y = one[..., channel], other[..., channel]
        mx, my = uniform_filter(x, 7), uniform_filter(y, 7)
        unbiased = 49 / 48
        vx, vy, vxy = (
            unbiased * (uniform_filter(a * b, 7) - uniform_filter(a, 7) * uniform_filter(b, 7))
            for a, b in ((x, x), (y, y), (x, y))
        )
        c1, c2 = 0.01**2, 0.03**2
        whole = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        values.append(whole[3:-3, 3:-3].mean())
    found = ssim(*(torch.from_numpy(x)[None] for x in (one, other)))
    assert found.item() == pytest.approx(np.mean(values))
    assert ssim(*[torch.from_numpy(one)[None]] * 2).item() == pytest.approx(1)


def test_the_signal_to_noise_ratio_of_a_known_error():
    plain = torch.full((2, 8, 8, 3), 0.5)
    found = plain + torch.tensor([0.1, 0.01]).reshape(2, 1, 1, 1)
    assert psnr(found, plain).tolist() == pytest.approx([20, 40], abs=1e-4)
    assert psnr(plain, plain).tolist() == [float("inf")] * 2


def test_a_table_compares_with_the_first():
    plain = torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    errors = torch.tensor([0.1, 0.2, 0.4]).reshape(3, 1, 1, 1)
    other = Generated("=L-GTM", plain + errors, 1.5, 0.75)
    found = Comparison([Generated("plain", plain, 3.0, None), other])
    first, second = csv.DictReader(io.StringIO(found.table()))
    assert first == {
        "model": "plain", "seconds": "3.000", "times as fast": "1.000", "operations": "",
        "SSIM": "1.0000", "PSNR": "inf",
    }  # fmt: skip
    assert second["model"] == "'=L-GTM"  # a spreadsheet would run it
    assert float(second["times as fast"]) == 2 and float(second["operations"]) == 0.75
    assert float(second["PSNR"]) == pytest.approx(-20 * np.log10(0.2), abs=0.01)
    median = ssim(plain + errors, plain).median().item()
    assert float(second["SSIM"]) == pytest.approx(median, abs=1e-4)
    (_, alone), (name, numbers) = found.captions()
    assert alone == "3 s" and name == "=L-GTM"
    assert numbers == (f"1.5 s (2.00x as fast), SSIM {median:.3f}, PSNR 14.0 dB, 75% of operations")

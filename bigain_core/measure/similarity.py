"""How alike two images are."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

WINDOW = 7  # of SSIM, pixels a side
STABLE = (0.01**2, 0.03**2)  # its constants, for pixels in [0, 1]


def psnr(one: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images (B, H, W, C) in [0, 1] -> (B,) in dB, inf if equal."""
    return -10 * (one - other).double().square().flatten(1).mean(1).log10()


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004) of images (B, H, W, C) in [0, 1] -> (B,).

    Over whole windows of 7 x 7 pixels of equal weight, with unbiased variances.
    """
    one, other = (x.movedim(-1, 1).double() for x in (one, other))

    def mean(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, WINDOW, stride=1)

    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    middles = mean(one), mean(other)
    spreads = [unbiased * (mean(x * x) - m * m) for x, m in zip((one, other), middles, strict=True)]
    shared = unbiased * (mean(one * other) - middles[0] * middles[1])
    light, contrast = STABLE
    alike = (2 * middles[0] * middles[1] + light) * (2 * shared + contrast)
    alike = alike / (middles[0] ** 2 + middles[1] ** 2 + light) / (sum(spreads) + contrast)
    return alike.flatten(1).mean(1)

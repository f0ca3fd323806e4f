"""Images of any size: small latents whose sides are as odd, level by level, as real ones.

The encoder merges and the decoder pools, each at every level.
"""

import pytest
import torch

from tests.host.compressing import report, skipped
from tests.host.side_by_side import (
    BOTH,
    Scenario,
    assert_same_image,
    through_the_hosts_patches,
)

# Image sizes and latents a quarter as large, which halve to odd sides as theirs do. comfy-todo
# crashes at the first four.
IMAGES = {
    "512 x 776": (16, 25),
    "1000 x 1000": (31, 31),
    "1080 x 1920": (33, 60),
    "904 x 1152": (29, 36),
    "1016 x 1016": (63, 31),
    "832 x 1216": (26, 38),
    "1152 x 896": (36, 28),
    "prime sides": (37, 53),
}
# Where a level has no square of four tokens, or nothing but one token.
SCRAPS = {"banner": (3, 64), "strip": (1, 64), "column": (64, 1), "stamp": (2, 2), "dot": (1, 1)}
AS_IT_IS = Scenario(lambda run: run)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("size", IMAGES)
def test_any_size(start, size, name):
    base = start(name, size=IMAGES[size]).but(steps=1)
    run = base.with_model(BOTH.on)
    image = run.image()
    assert image.shape[-2:] == IMAGES[size]
    assert_same_image(image, through_the_hosts_patches(AS_IT_IS, base, BOTH))
    assert "7 of 7 self-attention layers compressed" in report(run.model)
    assert not skipped(run.model)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("size", SCRAPS)
def test_what_is_too_small_is_skipped(start, size, name):
    base = start(name, size=SCRAPS[size])
    run = base.with_model(BOTH.on)
    image = run.image()
    assert_same_image(image, through_the_hosts_patches(AS_IT_IS, base, BOTH))
    nothing_done = "CHANGED NOTHING" in report(run.model)
    assert torch.equal(image, base.image()) == nothing_done

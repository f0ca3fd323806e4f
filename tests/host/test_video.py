"""benchmarks.video: clips move as they are called, and every layer of each network is measured."""

import pytest
import torch

from benchmarks.video import (
    CLIPS,
    COLUMNS,
    FRAMES,
    ROWS,
    SMALL,
    Measured,
    clip,
    measure,
    random_network,
)
from bigain_core.methods import KeyMerging, KVDownsampling, TokenMerging


def test_clips_move_as_they_are_called():
    still, squares, pan, cuts = (clip(kind, 4, 16, 24)[0] for kind in CLIPS)  # (C, T, H, W)
    assert torch.equal(still, still[:, :1].expand_as(still))
    assert torch.equal(pan[:, 1:, :, :-1], pan[:, :-1, :, 1:])
    moved = (squares != still).any(0).float().mean((1, 2))
    assert all(0 < share <= 3 / 16 for share in moved.tolist())
    assert (squares[:, 1:] != squares[:, :-1]).any()
    assert not (cuts[:, 1:] == cuts[:, :-1]).any()


def test_errors_and_flicker_in_closed_form():
    plain = torch.ones(1, FRAMES * 2, 3)
    steady, alternating = Measured(), Measured()
    steady.add(plain, plain + 0.5, keys=0.25)
    sign = 1 - 2 * (torch.arange(FRAMES) % 2).repeat_interleave(2)
    alternating.add(plain, plain + 0.5 * sign[None, :, None], keys=0.25)
    assert steady.mean() == pytest.approx((0.25, 0.5, 0))
    assert alternating.mean() == pytest.approx((0.25, 0.5, ((FRAMES - 1) / FRAMES) ** 0.5))


@pytest.mark.parametrize("name", SMALL)
def test_every_layer_is_measured_with_the_keys_that_are_left(name):
    import comfy.supported_models

    small = SMALL[name]
    if not hasattr(comfy.supported_models, small.host_class):
        pytest.skip("this ComfyUI has no such model")
    tried = {
        "four frames": KVDownsampling(1, frames=4),
        "one destination": KeyMerging(0.75, cell=2),
        "merged": TokenMerging(0.75, frames=4, proportional=True),
        "off": KVDownsampling(1),
    }
    clean = clip("pan", small.channels, ROWS * small.patch, COLUMNS * small.patch)
    found = measure(small, random_network(small), clean, 0.5, tried)
    assert [found[name].layers for name in tried] == [2, 2, 2, 0]
    runs = 1 + (FRAMES - 1) // 4
    assert found["four frames"].mean()[0] == pytest.approx(runs / FRAMES)
    assert found["one destination"].mean()[0] == pytest.approx(1 / 4)
    assert found["merged"].mean()[0] == pytest.approx(1 / 4)
    assert all(0.01 < found[name].mean()[1] < 1 for name in tried if name != "off")

"""Seeded tensors and small random transformers for the tests of the core."""

import pytest
import torch
from hypothesis import settings

from benchmarks.dit_runner import PlainDiT
from bigain_core.models.dit import DiTConfig

settings.register_profile("bigain", database=None, deadline=None, derandomize=True)
settings.load_profile("bigain")

TINY = {
    "input_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 128, "depth": 3,
    "num_heads": 2, "num_classes": 5, "learn_sigma": False,
}  # fmt: skip


@pytest.fixture(scope="session")
def randn():
    """Normal numbers that depend on the shape and the seed alone."""

    def draw(*shape, seed=0):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    return draw


@pytest.fixture(scope="session")
def make_dit():
    """A DiT whose parameters are all random, the position table and gates included."""

    def make(seed=0, **changes):
        model = PlainDiT(DiTConfig(**(TINY | changes))).eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model

    return make

"""Operations of a network, counted while it runs."""

import pytest
import torch
from torch import nn

from bigain_core.measure.counting import counted_layers


class Wrapper(nn.Module):
    """As torch.compile wraps a module: it runs what it holds and passes its attributes on."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module

    def __getattr__(self, name):
        if name == "_orig_mod":
            return super().__getattr__(name)
        return getattr(self._orig_mod, name)

    def forward(self, x):
        return self._orig_mod(x)


@pytest.mark.parametrize(
    "wrap", [lambda layer: layer, Wrapper, lambda layer: Wrapper(Wrapper(layer))]
)
def test_a_layer_counts_once_however_it_is_wrapped(wrap):
    linear, convolution = wrap(nn.Linear(3, 5)), wrap(nn.Conv1d(4, 6, 2, groups=2))
    with counted_layers(nn.ModuleList([linear, convolution])) as count:
        linear(torch.zeros(7, 3))
        assert count.flops == 2 * 7 * 3 * 5
        convolution(torch.zeros(1, 4, 9))
        assert count.flops == 2 * 7 * 3 * 5 + 2 * 2 * 2 * 6 * 8

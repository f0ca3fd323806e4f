"""Closed-form operation counts against torch's counter and the published figures."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from bigain_core.compression import Compression, NetworkCall, Rule, RunLog
from bigain_core.flops import laplacian_flops, matching_flops, self_attention_flops
from bigain_core.grid import TokenGrid
from bigain_core.methods import KVDownsampling, TokenMerging
from bigain_core.placement import Site, named_placement
from bigain_core.schedules import Moment

BASELINE = 804.26e9  # Stable Diffusion 2.0, one network call at 512 x 512
# Its full-resolution self-attention: 64 x 64 tokens of width 320, two layers down and three up.
FULL_RESOLUTION = [Site(n, "encoder" if n < 2 else "decoder") for n in range(5)]
MERGING, POOLING = TokenMerging(0.7), KVDownsampling(2)


def counted(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("after_projection", [False, True])
@pytest.mark.parametrize(
    ("width", "tokens", "context"),
    [(320, 4096, 4096), (320, 4096, 1024), (1152, 1024, 1024), (64, 35, 6)],
)
def test_self_attention_equals_the_count_of_torch(width, tokens, context, after_projection):
    projected = tokens if after_projection else context
    to_q, to_k, to_v, to_out = (nn.Linear(width, width, device="meta") for _ in range(4))

    def layer():
        q = to_q(torch.empty(1, tokens, width, device="meta"))
        source = torch.empty(1, projected, width, device="meta")
        k, v = to_k(source)[:, :context], to_v(source)[:, :context]
        weights = (q @ k.mT).softmax(-1)
        to_out(weights @ v)

    assert self_attention_flops(width, tokens, context, projected) == counted(layer)


def test_matching_equals_the_count_of_torch():
    sources = torch.empty(1, 3072, 320, device="meta")
    destinations = torch.empty(1, 1024, 320, device="meta")
    assert matching_flops(320, 4096, 1024) == counted(lambda: sources @ destinations.mT)


def test_the_laplacian_counts_as_a_depthwise_convolution():
    image = torch.empty(1, 320, 64, 64, device="meta")
    kernel = torch.empty(320, 1, 3, 3, device="meta")
    convolution = counted(lambda: functional.conv2d(image, kernel, padding=1, groups=320))
    assert laplacian_flops(320, 4096) == convolution


@pytest.mark.parametrize(
    ("flops", "giga"),
    [
        (self_attention_flops(320, 4096, 4096, 4096), 21.475 + 4 * 0.839),
        (matching_flops(320, 4096, 1024), 2.013),
        (laplacian_flops(320, 4096), 0.0236),
    ],
)
def test_figures_of_one_full_resolution_layer(flops, giga):
    assert flops / 1e9 == pytest.approx(giga, abs=1e-3)


def total_gflops(*rules, after_projection=False):
    """A network call of Stable Diffusion 2.0 whose full-resolution layers follow the rules."""
    log = RunLog()
    call = NetworkCall(Compression(rules), Moment(0.5), log, after_projection)
    metric = torch.randn(1, 4096, 320, generator=torch.Generator().manual_seed(0))
    for site in FULL_RESOLUTION:
        call.plan(site, metric, TokenGrid(64, 64))
    assert log.sites_compressed == 5
    return (BASELINE - log.flops_saved) / 1e9


@pytest.mark.parametrize(
    ("method", "printed"),
    [
        (TokenMerging(0.7, "random"), 704.87),
        (TokenMerging(0.7), 704.99),
        (KVDownsampling(2), 717.44),
    ],
)
def test_published_totals(method, printed):
    assert total_gflops(Rule(method)) == pytest.approx(printed, abs=0.011)


@pytest.mark.parametrize(
    ("encoder", "decoder", "printed"), [(MERGING, POOLING, 716.23), (POOLING, MERGING, 712.49)]
)
def test_published_totals_of_the_hybrids(encoder, decoder, printed):
    rules = (
        Rule(encoder, named_placement("encoder")),
        Rule(decoder, named_placement("decoder")),
    )
    assert total_gflops(*rules, after_projection=True) == pytest.approx(printed, abs=0.011)


@pytest.mark.parametrize(
    ("method", "percent"),
    [
        *zip(
            [TokenMerging(ratio) for ratio in (0.3, 0.4, 0.5, 0.6, 0.7, 0.75)],
            [6.2, 8.1, 9.8, 11.2, 12.4, 12.8],
            strict=True,
        ),
        *zip([KVDownsampling(s) for s in (2, 3, 4)], [10.8, 12.8, 13.5], strict=True),
    ],
)
def test_published_savings(method, percent):
    saved = 100 - 100 * total_gflops(Rule(method)) / (BASELINE / 1e9)
    assert saved == pytest.approx(percent, abs=0.06)

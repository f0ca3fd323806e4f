"""Weights of keys in a channel: against the same weights in a mask."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from bigain_core.tokens.weight_channel import wider, with_weight_channel


@pytest.mark.parametrize("channels", [4, 8, 32, 40, 64, 128])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize(("key_heads", "bias_heads"), [(4, 1), (2, 1), (4, 4)])
def test_a_channel_is_exactly_a_mask(randn, channels, scale, key_heads, bias_heads):
    q, k, v = randn(2, 4, 9, channels), *randn(2, 2, key_heads, 7, channels, seed=1)
    generator = torch.Generator().manual_seed(2)
    bias = torch.randint(1, 65, (2, bias_heads, 7), generator=generator).float().log()
    mask = bias[:, :, None]
    options = {"scale": scale, "enable_gqa": key_heads < 4}
    expected = scaled_dot_product_attention(q, k, v, mask, **options)
    wide = with_weight_channel(q, k, v, bias, scale)
    assert {x.shape[-1] for x in wide} == {wider(channels)}
    out = scaled_dot_product_attention(*wide, **options)
    torch.testing.assert_close(out[..., :channels], expected, atol=1e-6, rtol=1e-6)
    assert not out[..., channels:].any()
    assert not torch.allclose(scaled_dot_product_attention(q, k, v, **options), expected, atol=1e-2)


@pytest.mark.parametrize(("channels", "found"), [(1, 8), (8, 16), (40, 48), (64, 72), (124, 128)])
def test_channels_are_a_multiple_of_eight(channels, found):
    assert wider(channels) == found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_close_as_a_mask(randn, dtype):
    q, k, v = randn(3, 1, 2, 64, 64)
    bias = torch.full((1, 64), 16.0).log()
    bias[:, ::2] = 0
    exact = scaled_dot_product_attention(q, k, v, bias[:, None, None])
    half = [x.to(dtype) for x in (q, k, v)]
    by_mask = scaled_dot_product_attention(*half, bias[:, None, None].to(dtype))
    by_channel = scaled_dot_product_attention(*with_weight_channel(*half, bias[:, None]))[..., :64]
    errors = [(out.float() - exact).norm() for out in (by_channel, by_mask)]
    assert errors[0] < 2 * errors[1]

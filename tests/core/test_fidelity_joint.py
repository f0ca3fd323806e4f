"""Layers in which text and image attend to each other, as they are measured."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.fidelity.joint import BESIDE, WAYS, attention, rows, sequence
from benchmarks.fidelity.layers import MadeLayer, Tokens

TEXT = 5


def by_heads(x):
    return x.unflatten(2, (4, -1)).transpose(1, 2)


@pytest.mark.parametrize("rotary", [False, True])
def test_the_plain_layer_is_attention_of_text_and_image(rotary):
    tokens = MadeLayer(8, 0.1, 32, 4, rotary=rotary).tokens(None, "coffee.png", 0)
    q, k, v = given = sequence(tokens, TEXT, 0)
    expected = scaled_dot_product_attention(*map(by_heads, given)).transpose(1, 2).flatten(2)
    image, text = attention(given, tokens, TEXT)
    torch.testing.assert_close(torch.cat((text, image), 1), expected)
    assert q.shape == k.shape == v.shape == (1, TEXT + 64, 32)
    assert torch.equal(k[:, TEXT:], tokens.projected()[1])
    assert torch.equal(sequence(tokens, TEXT, 0)[0], q)
    assert not torch.equal(sequence(tokens, TEXT, 1)[0], q)


@pytest.mark.parametrize("way", WAYS)
def test_tokens_that_are_all_alike_lose_hardly_anything(randn, way):
    """Next to text a key must weigh as much as the tokens it stands for."""
    normed = randn(1, 1, 32) + 1e-3 * randn(1, 64, 32, seed=1)
    tokens = Tokens(normed, normed, 0.3 * randn(3, 32, 32), 4)
    given = sequence(tokens, TEXT, 0)
    found, plain = attention(given, tokens, TEXT, WAYS[way]), attention(given, tokens, TEXT)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, atol=0.02, rtol=0)


def test_errors_are_shares_of_those_of_both_rivals():
    sums = {name: torch.tensor([[4.0, 100.0, 1.0, 100.0]] * 3).double() for name in WAYS}
    sums[BESIDE[1]] = sums[BESIDE[1]] * torch.tensor([4, 1, 1, 1])
    found = {name: columns for name, *columns in rows(sums)}
    half = ["0.2 (0.2 to 0.2)", "1 (1 to 1)", "0.5 (0.5 to 0.5)", "1 (1 to 1)", "1 (1 to 1)"]
    assert found[BESIDE[0]] == half
    assert found[BESIDE[1]][0] == "0.4 (0.4 to 0.4)"

"""Single layers of the yardstick, against attention written out."""

import pytest
import torch

from benchmarks.fidelity.layers import QUERIES, SPREAD, MadeLayer, Tokens, measure_layers, turned
from benchmarks.fidelity.page import Fidelity, Kind, of_model
from benchmarks.fidelity.settings import CANDIDATE, METHODS, RIVAL, Setting
from bigain_core.methods import KeyMerging, KeyPairs, KVDownsampling, TokenMerging
from bigain_core.tokens.grid import TokenGrid
from tests.core.calls import MIDDLE

GRID = TokenGrid(8, 8)


def tokens(randn, rotary=False):
    block_input = randn(1, 64, 16)
    weights = [0.3 * randn(16, 16, seed=n) for n in (1, 2, 3)]
    return Tokens(block_input, block_input + randn(1, 64, 16, seed=4), weights, 2, rotary)


def written_out(q, k, v, bias):
    q, k, v = (x[0].unflatten(1, (2, -1)).transpose(0, 1) for x in (q, k, v))
    logits = q @ k.mT / q.shape[-1] ** 0.5
    return (
        ((logits if bias is None else logits + bias[0]).softmax(-1) @ v).transpose(0, 1).flatten(1)
    )


METHODS_HERE = (
    TokenMerging(0.6, proportional=True), KVDownsampling(2), KeyMerging(0.6), KeyPairs(),
)  # fmt: skip


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("method", METHODS_HERE, ids=lambda method: method.name)
def test_a_layer_is_the_attention_of_its_plan(randn, method, rotary):
    given = tokens(randn, rotary)
    metric = given.normed if method.metric == "normed" else given.block_input
    plan = method.plan(metric, GRID, MIDDLE, 0)
    places = plan.unblended() if rotary else plan
    q, k, v = (given.normed @ weight.T for weight in given.weights)
    if rotary:
        q, k = turned(q, GRID, 2), turned(k, GRID, 2)
    out = written_out(places.queries(q), places.context(k), plan.context(v), plan.key_bias)
    torch.testing.assert_close(given.attention(method), plan.restore(out[None]))
    assert not torch.allclose(given.attention(method), given.attention(), atol=1e-3)


def test_rotary_positions_tell_how_far_apart_tokens_are(randn):
    """Products depend on the distance in rows and columns alone."""
    q, k = (randn(1, 1, 16, seed=n).expand(1, 64, 16) for n in (0, 1))
    products = (turned(q, GRID, 2) @ turned(k, GRID, 2).mT)[0].view(8, 8, 8, 8)
    torch.testing.assert_close(products[1:, 2:, 1:, 2:], products[:-1, :-2, :-1, :-2])
    assert products[0, 0].std() > 0.1


def test_made_layers_spread_their_logits_and_differ_by_photograph():
    layer = MadeLayer(12, 0.1, width=64, heads=2)
    given = layer.tokens(None, "coffee.png", 0)
    assert given.normed.shape == (1, 144, 64) and given.grid == TokenGrid(12, 12)
    q, k = (given.normed @ weight.T for weight in given.weights[:2])
    logits = q[..., :32] @ k[..., :32].mT / 32**0.5
    assert SPREAD / 2 < logits.std(-1).mean() < 1.5 * SPREAD
    other = layer.tokens(None, "chelsea.png", 0)
    assert all(torch.equal(a, b) for a, b in zip(given.weights, other.weights, strict=True))
    assert not torch.equal(given.normed, other.normed)


def test_of_many_tokens_some_are_shown(randn):
    given = tokens(randn)
    whole = given.attention(KeyPairs())
    many = Tokens(given.block_input, given.normed, given.weights, 2)
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr("benchmarks.fidelity.layers.QUERIES", 16)
        torch.testing.assert_close(many.attention(KeyPairs()), whole[:, ::4])
    assert QUERIES > 64


def test_layers_go_on_and_are_reported(tmp_path):
    layer, folder = MadeLayer(12, 0.1, width=32, heads=2), tmp_path / "layer"
    settings = [Setting(name, METHODS[name]) for name in (RIVAL, CANDIDATE)]
    measure_layers(None, layer, settings, ("coffee.png",), folder)
    before = {path: path.read_text("ascii") for path in folder.glob("*.jsonl")}
    measure_layers(None, layer, settings, ("coffee.png", "chelsea.png"), folder)
    assert len(before) == 2
    for path, text in before.items():
        assert path.read_text("ascii").startswith(text), "what is finished is not done again"
    empty = Kind({})
    text = of_model(Fidelity(empty, empty, layers={"made": Kind.read(folder)}))
    assert "2 photographs, one layer alone (made):" in text and f"| {RIVAL}" in text

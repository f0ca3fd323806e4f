"""Keys centred on the attention they get, against loops in Python and whole attention."""

from math import exp, log, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention

from bigain_core.compression.rules import Rule
from bigain_core.measure.flops import projections_shortened
from bigain_core.methods import KeyMerging, KeyPairs, KVDownsampling, TokenMerging
from bigain_core.placement import LayerId
from bigain_core.tokens.centred_keys import CentredPlan, keys_with_values
from bigain_core.tokens.grid import TokenGrid
from tests.core.calls import MIDDLE, counted, network_call

CENTRED = KeyPairs(0.75, centred=True)


def by_heads(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(q, k, v, heads, mask=None):
    """Attention of q, k, v (B, N, C), mask (B, 1 or heads, Nk)."""
    mask = None if mask is None else mask[:, :, None]
    out = scaled_dot_product_attention(*(by_heads(x, heads) for x in (q, k, v)), mask)
    return out.transpose(1, 2).flatten(2)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(logits):
    largest = max(logits)
    powers = [exp(x - largest) for x in logits]
    return [p / sum(powers) for p in powers]


def blend(weights, rows):
    return [dot(weights, column) for column in zip(*rows, strict=True)]


def slow_squares(rows, grid):
    """The token in the middle of each of as many squares of 4 x 4 as fit, at least one."""
    down, right = max(1, grid.height // 4), max(1, grid.width // 4)
    return [
        rows[int((y + 0.5) * grid.height / down) * grid.width + int((x + 0.5) * grid.width / right)]
        for y in range(down)
        for x in range(right)
    ]


def slow_centred(q, k, v, grid, groups):
    """Key, value and bias of each group, of rows of one head."""
    scale = 1 / sqrt(len(q[0]))
    asking = slow_squares(q, grid)
    means = [blend([1 / len(g)] * len(g), [k[n] for n in g]) for g in groups]
    shares = [
        softmax([dot(a, m) * scale + log(len(g)) for m, g in zip(means, groups, strict=True)])
        for a in asking
    ]
    found = []
    for number, group in enumerate(groups):
        share = [row[number] for row in shares]
        centre = blend([s / sum(share) for s in share], asking)
        weights = softmax([dot(centre, k[n]) * scale for n in group])
        entropy = -sum(w * log(w) for w in weights)
        found.append(
            (blend(weights, [k[n] for n in group]), blend(weights, [v[n] for n in group]), entropy)
        )
    return found


@given(
    height=st.integers(1, 9),
    width=st.integers(2, 9),
    ratio=st.sampled_from([0.5, 0.75, 0.9]),
    seed=st.integers(0, 99),
)
def test_a_key_is_what_the_queries_that_attend_to_its_group_see(randn, height, width, ratio, seed):
    grid, heads = TokenGrid(height, width), 2
    q, k, v = randn(3, 2, grid.tokens, 6, seed=seed)
    plan = KeyPairs(ratio, centred=True).plan(keys_with_values(k, v), grid, MIDDLE, 0)
    assert isinstance(plan, CentredPlan)
    assert plan.context_tokens == 2 * max(1, int(grid.tokens * (1 - ratio)) // 2)
    size = plan.members.shape[1] // plan.context_tokens
    found = plan.attended(q, k, v, heads)
    for sample in range(2):
        groups = [
            sorted(set(part)) for part in plan.members[sample].unflatten(0, (-1, size)).tolist()
        ]
        assert sorted(sum(groups, [])) == list(range(grid.tokens))
        assert max(map(len, groups)) - min(map(len, groups)) <= 1
        for head in range(heads):
            rows = [by_heads(x, heads)[sample, head].tolist() for x in (q, k, v)]
            expected = slow_centred(*rows, grid, groups)
            keys, values = (by_heads(x, heads)[sample, head] for x in found[:2])
            torch.testing.assert_close(keys, torch.tensor([e[0] for e in expected]))
            torch.testing.assert_close(values, torch.tensor([e[1] for e in expected]))
            bias = torch.tensor([e[2] for e in expected])
            torch.testing.assert_close(found[2][sample, head], bias)


@pytest.mark.parametrize("grid", [TokenGrid(8, 8), TokenGrid(7, 9)], ids=str)
def test_queries_that_are_all_alike_lose_nothing(randn, grid):
    k, v = randn(2, 2, grid.tokens, 16)
    q = randn(2, 1, 16, seed=1).expand(-1, grid.tokens, -1)
    plan = CENTRED.plan(randn(2, grid.tokens, 16, seed=2), grid, MIDDLE, 0)  # groups of any kind
    short_k, short_v, mask = plan.attended(q, k, v, 4)
    whole = attend(q, k, v, 4)
    torch.testing.assert_close(attend(q, short_k, short_v, 4, mask), whole)
    by_means = attend(q, plan.context(k), plan.context(v), 4, plan.key_bias[:, None])
    assert not torch.allclose(by_means, whole, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(randn, dtype):
    grid = TokenGrid(8, 8)
    q, k, v = 3 * randn(3, 1, 64, 32)
    plan = CENTRED.plan(keys_with_values(k, v), grid, MIDDLE, 0)
    short_k, short_v, mask = plan.attended(q, k, v, 4)
    exact = attend(q, short_k, short_v, 4, mask)
    half = [x.to(dtype) for x in (q, k, v)]
    short_k, short_v, mask = plan.attended(*half, 4)
    assert {short_k.dtype, short_v.dtype, mask.dtype} == {dtype}
    error = (attend(half[0], short_k, short_v, 4, mask).float() - exact).norm() / exact.norm()
    assert error < 0.02


def test_it_runs_on_tensors_that_cuda_would_have():
    with FakeTensorMode():
        q, k, v = torch.empty(3, 2, 63, 32, dtype=torch.float16, device="cuda")
        plan = CENTRED.plan(keys_with_values(k, v), TokenGrid(9, 7), MIDDLE, 0)
        found = plan.attended(q, k, v, 4)
        assert [x.shape for x in found] == [(2, 14, 32), (2, 14, 32), (2, 4, 14)]
        assert {x.device.type for x in found} == {"cuda"}


def test_keys_and_values_count_alike_whatever_their_size(randn):
    """Distances in the sum are on average those of both side by side."""
    k, v = randn(2, 1, 200, 256)
    found = keys_with_values(1000 * k + 5, v / 1000 - 3)
    centred = [x - x.mean(1, keepdim=True) for x in (found, keys_with_values(k, v))]
    torch.testing.assert_close(*centred, atol=5e-3, rtol=1e-3)
    found = centred[1]
    scaled = [x / (x - x.mean(1, keepdim=True)).square().sum(2).mean().sqrt() for x in (k, v)]
    ratio = torch.cdist(found, found).square().sum() / sum(
        torch.cdist(x, x).square().sum() for x in scaled
    )
    assert ratio.item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_sample_counts_by_itself(randn, dtype):
    qkv = randn(3, 2048, 3 * 24).to(dtype)
    _, k, v = qkv.chunk(3, dim=-1)
    together = keys_with_values(k, v)
    for n in range(3):
        alone = keys_with_values(k[n : n + 1].clone(), v[n : n + 1].clone())
        assert torch.equal(together[n], alone[0])


def test_operations_are_those_of_torchs_counter(randn):
    grid, groups = TokenGrid(12, 8), 24
    q, k, v = randn(3, 1, 96, 16)
    plan = CENTRED.plan(k, grid, MIDDLE, 0)
    halving = 6 * 5 * 96 * 16  # sums that the counter does not see, see KeyPairs
    found = counted(lambda: plan.attended(q, k, v, 2))
    assert plan.context_tokens == groups
    assert CENTRED.decision_flops(16, grid) == found + halving


def test_only_methods_for_keys_and_values_wait_for_them(randn):
    x, grid = randn(1, 64, 8), TokenGrid(8, 8)
    for method, late in (
        (KeyPairs(), True), (KeyMerging(), True), (TokenMerging(), False),
        (KVDownsampling(), False),
    ):  # fmt: skip
        call = network_call(Rule(method), layer_flops=projections_shortened)
        plan = call.plan(LayerId(0, "transformer"), x, grid)
        assert (not call.log.layers) == late
        plan.attended(plan.queries(x), plan.queries(x), plan.queries(x), 2)
        assert call.log.layers_compressed == 1
    off = network_call(Rule(KeyPairs(0.0)), layer_flops=projections_shortened)
    plan = off.plan(LayerId(0, "transformer"), x, grid)
    same = plan.attended(x, x, x, 2)
    assert same[0] is x and same[1] is x and same[2] is None

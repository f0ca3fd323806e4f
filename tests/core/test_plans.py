"""Carrying out a plan: merging, unmerging and pooling tokens."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.plans import (
    MERGE_MODES,
    IdentityPlan,
    MergePlan,
    PoolPlan,
    SelectPlan,
    rows_at,
)
from tests.core.loops import merged_group


def random_plan(count, kept, seed, batch=2):
    """A plan that keeps `kept` random tokens of each sample and sends the others anywhere."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.empty(batch, count, dtype=torch.long)
    for sample in range(batch):
        keepers = torch.randperm(count, generator=generator)[:kept]
        target[sample] = keepers[torch.randint(kept, (count,), generator=generator)]
        target[sample, keepers] = keepers
    return plan_of(target)


def plan_of(target):
    """Of a target (B, N); the kept tokens are given in falling order."""
    kept = [[n for n, goal in enumerate(row) if goal == n] for row in target.tolist()]
    return MergePlan.from_target(target, torch.tensor(kept).flip(1))


def groups(plan, sample):
    """{kept token: its group with itself first}, in the order of the merged sequence."""
    target = plan.target[sample].tolist()
    kept = [token for token, goal in enumerate(target) if token == goal]
    return {k: [k, *(n for n, goal in enumerate(target) if goal == k and n != k)] for k in kept}


def slow_merge(x, plan, mode):
    """One group after the other, in double precision."""
    samples = [
        torch.stack(
            [merged_group(x[sample, members], mode) for members in groups(plan, sample).values()]
        )
        for sample in range(len(x))
    ]
    return torch.stack(samples)


plans = st.integers(1, 24).flatmap(
    lambda count: st.builds(random_plan, st.just(count), st.integers(1, count), st.integers(0, 999))
)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.long]
)
def test_rows_are_those_at_the_indices_of_their_own_sample(dtype):
    x = torch.arange(2 * 6 * 4).view(2, 6, 4).to(dtype)
    indices = torch.tensor([[5, 0, 0], [1, 2, 5]])
    views = {"whole": x, "part": x[..., 1:3], "turned": x.mT.contiguous().mT, "frames": x[:, 1:]}
    for view in views.values():
        some = indices.clamp(max=view.shape[1] - 1)
        rows = rows_at(view, some)
        for sample, tokens in enumerate(some.tolist()):
            assert rows[sample].tolist() == [view[sample, token].tolist() for token in tokens]
    assert rows_at(x.to("meta"), indices.to("meta")).shape == (2, 3, 4)


@pytest.mark.parametrize("mode", MERGE_MODES)
@given(plan=plans)
def test_merge_equals_a_loop_over_groups(randn, mode, plan):
    x = randn(2, plan.target.shape[1], 5)
    merged = plan.merge(x, mode)
    torch.testing.assert_close(merged.double(), slow_merge(x, plan, mode), atol=1e-5, rtol=1e-5)


@given(plan=plans)
def test_unmerge_copies_the_row_of_each_group(randn, plan):
    y = randn(2, plan.query_tokens, 3)
    out = plan.restore(y)
    for sample in range(2):
        for row, members in enumerate(groups(plan, sample).values()):
            for token in members:
                assert torch.equal(out[sample, token], y[sample, row])


@given(plan=plans, mode=st.sampled_from(MERGE_MODES))
def test_merging_identical_tokens_loses_nothing(randn, plan, mode):
    values = torch.tensor([3.0, 4.0]) * (8 * randn(2, plan.target.shape[1], 1)).round()
    x = values.gather(1, plan.target[..., None].expand(-1, -1, 2))
    torch.testing.assert_close(plan.restore(plan.merge(x, mode)), x, atol=0, rtol=1e-6)


def test_worked_group_of_three():
    x = torch.tensor([[[10.0, 0.0], [1.0, 0.0], [0.0, 3.0]]])
    plan = plan_of(torch.tensor([[0, 0, 0]]))
    for mode, expected in {
        "mean": [11 / 3, 1.0],
        "mlerp": [9.648, 2.631],
        "prune": [10.0, 0.0],
    }.items():
        torch.testing.assert_close(
            plan.merge(x, mode), torch.tensor([[expected]]), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mode", MERGE_MODES)
def test_merge_keeps_the_dtype_and_its_precision(randn, dtype, mode):
    plan = random_plan(64, 10, seed=0)
    x = randn(2, 64, 8).to(dtype)
    merged = plan.merge(x, mode)
    assert merged.dtype == dtype
    tolerance = {"atol": 4 * torch.finfo(dtype).eps, "rtol": 4 * torch.finfo(dtype).eps}
    if mode == "mlerp" and dtype == torch.float64:  # lengths are taken in fp32
        tolerance = {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(merged.double(), slow_merge(x, plan, mode), **tolerance)


@given(plan=plans)
def test_the_way_without_bags_gives_the_same_means(randn, plan):
    """Metal has no kernel for bags before torch 2.10."""
    x = randn(2, plan.target.shape[1], 5)
    torch.testing.assert_close(plan._mean_by_product(x), plan._mean_of_bags(x))


class NoBags(TorchDispatchMode):
    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        assert "embedding_bag" not in operator.name()
        return operator(*args, **(kwargs or {}))


def test_metal_is_given_no_bag():
    with FakeTensorMode(), NoBags(), torch.no_grad():
        x = torch.empty(2, 64, 8, device="mps", dtype=torch.float16)
        place = torch.empty(2, 64, device="mps", dtype=torch.long)
        plan = MergePlan(place, torch.empty(2, 20, device="mps", dtype=torch.long))
        merged = plan.queries(x)
        assert (merged.shape, merged.dtype) == ((2, 20, 8), x.dtype)
    with NoBags(), pytest.raises(AssertionError):
        random_plan(8, 4, seed=0).queries(torch.zeros(2, 8, 3))


@pytest.mark.parametrize("mode", MERGE_MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_large_group_does_not_overflow(dtype, mode):
    """A flat image merges into few groups, whose sum is beyond fp16 while their mean is not."""
    x = torch.full((1, 4096, 2), 1000.0, dtype=dtype)
    plan = plan_of(torch.zeros(1, 4096, dtype=torch.long))
    torch.testing.assert_close(plan.merge(x, mode), x[:, :1], atol=0, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_mlerp_of_opposite_tokens_is_zero(dtype):
    x = torch.tensor([[[1.0, -2.0], [-1.0, 2.0]]], dtype=dtype)
    plan = plan_of(torch.tensor([[1, 1]]))
    assert torch.equal(plan.merge(x, "mlerp"), torch.zeros(1, 1, 2, dtype=dtype))


def test_merge_accepts_views_and_other_widths(randn):
    plan = random_plan(12, 5, seed=1)
    wide = randn(2, 12, 9)
    k, v = wide[..., :4], wide[..., 4:]
    assert torch.equal(plan.merge(k), plan.merge(wide)[..., :4])
    assert torch.equal(plan.merge(v), plan.merge(wide)[..., 4:])
    assert torch.equal(plan.merge(wide.mT.contiguous().mT), plan.merge(wide))


@given(plan=plans)
def test_a_proportional_plan_weighs_keys_by_the_tokens_they_stand_for(plan):
    bias = replace(plan, proportional=True).key_bias
    assert bias.shape == plan.kept.shape and bias.dtype == torch.float32
    count = torch.full((2,), float(plan.target.shape[1]))
    torch.testing.assert_close(bias.exp().sum(1), count)
    torch.testing.assert_close(bias.exp(), plan.sizes.float())
    for sample, sizes in enumerate(plan.sizes.tolist()):
        assert sizes == [len(members) for members in groups(plan, sample).values()]
    assert plan.key_bias is None


def attention(q, k, v, bias=None):
    """One head, in double precision."""
    logits = q.double() @ k.double().mT / q.shape[-1] ** 0.5
    if bias is not None:
        logits = logits + bias.double()[:, None]
    return logits.softmax(-1) @ v.double()


@pytest.mark.parametrize("mode", MERGE_MODES)
@given(plan=plans)
def test_proportional_attention_loses_nothing_where_merged_tokens_are_identical(randn, mode, plan):
    count = plan.target.shape[1]
    q, k, v = (x.gather(1, plan.target[..., None].expand(-1, -1, 4)) for x in randn(3, 2, count, 4))
    plan = replace(plan, mode=mode, proportional=True)
    merged = attention(plan.queries(q), plan.context(k), plan.context(v), plan.key_bias)
    torch.testing.assert_close(plan.restore(merged), attention(q, k, v), atol=1e-6, rtol=1e-6)


def test_without_it_a_large_group_counts_as_one_token():
    """Three tokens of value 1 and one of value 0, all equally wanted."""
    x = torch.tensor([[[1.0], [1.0], [1.0], [0.0]]])
    plan = plan_of(torch.tensor([[0, 0, 0, 3]]))
    q = torch.zeros(1, 1, 1)
    values = plan.context(x)
    assert attention(q, values, values).item() == pytest.approx(0.5)
    bias = replace(plan, proportional=True).key_bias
    assert attention(q, values, values, bias).item() == pytest.approx(0.75)


@pytest.mark.parametrize("mode", MERGE_MODES)
def test_a_plan_that_merges_nothing_returns_its_arguments(randn, mode):
    x = randn(2, 7, 3)
    plan = plan_of(torch.arange(7).repeat(2, 1))
    assert plan.merge(x, mode) is x and plan.restore(x) is x


@pytest.mark.parametrize(
    ("plan", "keys"),
    [
        (IdentityPlan(12), 12),
        (PoolPlan(TokenGrid(3, 4), factor=2, alpha=0.9), 2),
        (SelectPlan(TokenGrid(3, 4), torch.tensor([[0, 3, 11], [2, 5, 7]])), 3),
    ],
)
def test_plans_of_keys_leave_queries_and_outputs_whole(randn, plan, keys):
    x = randn(2, 12, 3)
    assert plan.queries(x) is x and plan.restore(x) is x and plan.key_bias is None
    assert (plan.query_tokens, plan.context_tokens) == (12, keys)
    context = plan.context(x)
    assert context.shape[1] == keys and (keys < 12 or context is x)
    if isinstance(plan, SelectPlan):
        for sample, tokens in enumerate(plan.chosen.tolist()):
            assert torch.equal(context[sample], x[sample, tokens])


@pytest.mark.parametrize("blend", [-0.5, 0.0, 0.3, 1.0, 1.5])
def test_a_selection_is_blended_with_its_average(randn, blend):
    x, chosen = randn(2, 16, 3), torch.tensor([[0, 3, 12, 15], [5, 6, 9, 10]])
    plan = SelectPlan(TokenGrid(4, 4), chosen, PoolPlan(TokenGrid(4, 4), 2, 0.0), blend)
    out = plan.context(x)
    for sample, tokens in enumerate(chosen.tolist()):
        for place, token in enumerate(tokens):
            corner = place // 2 * 8 + place % 2 * 2
            average = x[sample, [corner, corner + 1, corner + 4, corner + 5]].mean(0)
            expected = blend * x[sample, token] + (1 - blend) * average
            torch.testing.assert_close(out[sample, place], expected, atol=1e-6, rtol=1e-6)

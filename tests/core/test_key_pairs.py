"""Key pairs against loops in Python, closed forms and whole attention."""

from math import ceil, log2

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from bigain_core.methods import KeyPairs
from bigain_core.methods.key_pairs import SKETCH, fitting_spread
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.plans import repeated
from bigain_core.tokens.sequence import JointPlan
from tests.core.calls import MIDDLE

GRID = TokenGrid(8, 8)


def minus_mean(rows):
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return [[a - b for a, b in zip(row, mean, strict=True)] for row in rows]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def slow_along(rows):
    """How far each row lies along one step of power iteration from the longest."""
    rows = minus_mean(rows)
    longest = max(rows, key=lambda row: dot(row, row))
    weights = [dot(row, longest) for row in rows]
    columns = zip(*rows, strict=True)
    direction = [dot(weights, column) for column in columns]
    return [dot(row, direction) for row in rows]


def slow_groups(rows, groups):
    """Lists of tokens, halved until every list has one share of them."""
    count = len(rows)
    tokens = list(range(count))
    pieces = [(0, groups)]
    for _ in range(ceil(log2(groups))):
        for first, last in pieces:
            begin, end = first * count // groups, last * count // groups
            inside = tokens[begin:end]
            along = slow_along([rows[n] for n in inside])
            ranked = sorted(zip(along, inside, strict=True))
            tokens[begin:end] = [n for _, n in ranked]
        level = len(pieces) * 2
        edges = [j * groups // level for j in range(level + 1)]
        pieces = list(zip(edges, edges[1:], strict=False))
    bounds = [j * count // groups for j in range(groups + 1)]
    return [tokens[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


@given(
    height=st.integers(2, 9),
    width=st.integers(1, 9),
    ratio=st.floats(0.05, 0.95),
    spread=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 999),
)
def test_groups_are_halves_of_halves_and_keys_lie_on_both_sides_of_their_mean(
    randn, height, width, ratio, spread, seed
):
    grid = TokenGrid(height, width)
    metric = randn(2, grid.tokens, 5, seed=seed)
    x = randn(2, grid.tokens, 3, seed=seed + 1)
    plan = KeyPairs(ratio, spread).plan(metric, grid, MIDDLE, 0)
    groups = max(1, int(grid.tokens * (1 - ratio)) // 2)
    assert plan.context_tokens == 2 * groups
    found = plan.context(x).double().unflatten(1, (groups, 2))
    for sample in range(2):
        rows = metric[sample].double()
        for number, tokens in enumerate(slow_groups(rows.tolist(), groups)):
            inside = rows[tokens] - rows[tokens].mean(0)
            along = torch.tensor(slow_along(rows[tokens].tolist())).double()
            offset = (along[:, None] * inside).mean(0)
            scale = spread * inside.square().sum(-1).mean().sqrt() / offset.norm().clamp_min(1e-30)
            values = x[sample].double()[tokens]
            away = scale * (along[:, None] * (values - values.mean(0))).mean(0)
            expected = torch.stack([values.mean(0) + away, values.mean(0) - away])
            errors = [
                (found[sample, number] - pair).abs().max() for pair in (expected, expected.flip(0))
            ]
            assert min(errors) < 1e-3  # of two tokens either may come first
            if plan.key_bias is not None:
                weight = plan.key_bias[sample, 2 * number].exp()
                assert weight.item() == pytest.approx(len(tokens) / 2)
    assert plan.key_bias is not None or grid.tokens % groups == 0
    assert plan.queries(x) is x and plan.restore(x) is x


def test_pairs_keep_the_mean_and_the_variance_of_their_group(randn):
    x = randn(1, 64, 6)
    plan = KeyPairs(0.75, 1.0).plan(x, GRID, MIDDLE, 0)
    rows = x[0, plan.members].unflatten(1, (8, 8))[0]
    pairs = plan.context(x)[0].unflatten(0, (8, 2))
    torch.testing.assert_close(pairs.mean(1), rows.mean(1))
    variances = [part.var(1, correction=0).sum(-1) for part in (pairs, rows)]
    torch.testing.assert_close(*variances)


def test_groups_of_two_kinds_of_tokens_lose_nothing(randn):
    """A pair of keys is then all keys of its group, for any query."""
    x = two_kinds(randn)
    plan = KeyPairs(0.875, 1.0).plan(x, GRID, MIDDLE, 0)
    k, v, q = x / 100, x @ randn(6, 6, seed=3), randn(2, 64, 6, seed=2)
    out = scaled_dot_product_attention(q, plan.context(k), plan.context(v), plan.key_bias)
    assert plan.context_tokens == 8 and plan.key_bias is None
    torch.testing.assert_close(out, scaled_dot_product_attention(q, k, v), atol=1e-2, rtol=1e-4)


def test_in_rotary_positions_keys_are_tokens_of_their_groups(randn):
    grid = TokenGrid(5, 7, frames=2, prefix=3)
    x = randn(1, grid.sequence_tokens, 4)
    plan = KeyPairs().plan(grid.image(x), grid.frame, MIDDLE, 0)
    joint = JointPlan(grid, plan, plan.unblended(), proportional=True)
    image = grid.image(x)
    groups = plan.members.unflatten(1, (plan.context_tokens // 2, -1))
    for frame in range(2):
        for number, token in enumerate(plan.middle[frame].tolist()):
            assert token in groups[frame, number // 2]
    kept = image.gather(1, plan.middle[..., None].expand(-1, -1, 4)).flatten(0, 1)
    assert torch.equal(joint.keys(x)[0, 3:], kept)
    torch.testing.assert_close(joint.values(x)[0, 3:], plan.context(image).flatten(0, 1))
    weights = joint.key_bias(joint.keys(x)).exp()[0]
    assert torch.equal(weights[:3], torch.ones(3)) and weights[3:].sum() == pytest.approx(70)


def two_kinds(randn):
    """(2, 64, 6): four far groups, each of two tokens eight times over."""
    kinds = 100 * randn(2, 4, 1, 6) + randn(2, 4, 2, 6, seed=1)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    return kinds.repeat_interleave(8, dim=2).flatten(1, 2)[:, order]


def test_a_token_belongs_to_the_key_on_its_side(randn):
    x = two_kinds(randn)
    target = KeyPairs(0.875).plan(x, GRID, MIDDLE, 0).target
    assert torch.equal(x.gather(1, target[..., None].expand(-1, -1, 6)), x)


def test_wide_tokens_are_grouped_by_a_sketch(randn):
    """Eight far clusters of 8 tokens in more channels than the sketch has."""
    kinds = 10 * randn(1, 8, 2 * SKETCH)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    x = (kinds.repeat_interleave(8, dim=1) + randn(1, 64, 2 * SKETCH, seed=1))[:, order]
    plan = KeyPairs(0.75).plan(x, GRID, MIDDLE, 0)
    cluster = (order // 8)[plan.members[0]].view(8, 8)
    assert (cluster == cluster[:, :1]).all()


def test_a_plan_can_be_repeated_for_more_prompts(randn):
    metric, x = randn(1, 35, 8), randn(2, 35, 3, seed=1)
    grid = TokenGrid(5, 7)
    twice = KeyPairs().plan(metric.repeat(2, 1, 1), grid, MIDDLE, 0)
    copied = repeated(KeyPairs().plan(metric, grid, MIDDLE, 0), 2)
    assert torch.equal(copied.context(x), twice.context(x))
    assert torch.equal(copied.key_bias, twice.key_bias)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("centred", [False, True])
def test_groups_of_equal_tokens_are_their_token(randn, scale, centred):
    """Flat areas and still frames: what is left of a group less its mean is rounding alone."""
    for kinds, of_each in ((8, 8), (1, 60)):  # groups of one size, and of two
        tokens = scale * randn(1, kinds, 320)
        x, grid = tokens.repeat_interleave(of_each, 1), TokenGrid(kinds, of_each)
        found = KeyPairs(centred=centred).plan(x, grid, MIDDLE, 0).context(x)
        nearest = (found[0, :, None] - tokens[0]).abs().amax(-1).amin(-1)
        assert nearest.max() < 1e-5 * scale


def test_spread_follows_the_number_of_keys(randn):
    shares = [fitting_spread(n) for n in (1, 64, 256, 1024, 4096, 2**14)]
    assert shares == pytest.approx([0.4, 0.7, 0.8, 0.9, 1, 1])
    x = randn(1, 1024, 4)
    plans = [KeyPairs(spread=a).plan(x, TokenGrid(32, 32), MIDDLE, 0) for a in (None, 0.8)]
    assert torch.equal(plans[0].context(x), plans[1].context(x))


def test_deciding_costs_less_than_3_percent_of_a_block_of_stable_diffusion():
    n, c = 4096, 320
    attention = 4 * n * n * c + 8 * n * c * c
    assert 0 < KeyPairs().decision_flops(c, TokenGrid(64, 64)) < 0.03 * attention


def test_a_ratio_above_1_is_refused():
    with pytest.raises(ValueError, match=r"expected .* got"):
        KeyPairs(1.5)


def test_nothing_to_remove_is_off():
    assert KeyPairs(0).is_identity

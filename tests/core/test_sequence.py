"""Shortening the image of a sequence: against attention over what the shortening stands for."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from bigain_core.methods import KVCellSelection, KVDownsampling, KVSelection, TokenMerging
from bigain_core.schedules import AlphaSchedule
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.plans import IdentityPlan
from bigain_core.tokens.sequence import JointPlan, even_over_image
from tests.core.calls import MIDDLE

TEXT_FIRST = TokenGrid(4, 6, prefix=5)
IMAGE_FIRST = TokenGrid(4, 6, suffix=7)
VIDEO = TokenGrid(4, 6, frames=3)
ALL = TokenGrid(4, 6, frames=2, prefix=5, suffix=7)
BETWEEN = TokenGrid(4, 6, prefix=5, suffix=7)
GRIDS = [TEXT_FIRST, IMAGE_FIRST, BETWEEN, VIDEO, ALL]
METHODS = [
    TokenMerging(0.5),
    TokenMerging(0.5, mode="mlerp"),
    KVDownsampling(2, AlphaSchedule(0.5, 0.5)),
    KVSelection("high", 0.5),
    KVCellSelection("high", 2),
]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def joint(method, x, grid, rotary=False, proportional=False):
    plan = method.plan(grid.image(x), grid.frame, MIDDLE, 0)
    return JointPlan(grid, plan, plan.unblended() if rotary else plan, proportional)


def parts(x, grid, per_frame):
    """(prefix, list of frames, suffix) by slicing."""
    start, stop = grid.prefix, grid.prefix + grid.frames * per_frame
    frames = [x[:, start + f * per_frame :][:, :per_frame] for f in range(grid.frames)]
    return x[:, :start], frames, x[:, stop:]


def test_tokens_of_the_image_are_picked_frame_by_frame():
    x = torch.arange(ALL.sequence_tokens).expand(2, -1)[..., None]
    image = ALL.image(x)
    assert image.shape == (4, 24, 1)
    assert image[:, :, 0].tolist() == [
        list(range(5, 29)), list(range(29, 53)), list(range(5, 29)), list(range(29, 53))
    ]  # fmt: skip
    alone = torch.zeros(2, 24, 3)
    assert TokenGrid(4, 6).image(alone) is alone


@each_method
@pytest.mark.parametrize("grid", GRIDS)
def test_each_frame_is_shortened_as_if_it_were_alone(randn, method, grid):
    x, other = randn(2, grid.sequence_tokens, 8), randn(2, grid.sequence_tokens, 8, seed=1)
    plan = joint(method, x, grid)
    _, frames, _ = parts(x, grid, 24)
    prefix, inputs, suffix = parts(other, grid, 24)
    for name, step in (("queries", plan.queries), ("keys", plan.keys), ("values", plan.values)):
        short = step(other)
        alone = [method.plan(frame, grid.frame, MIDDLE, 0) for frame in frames]
        kind = "queries" if name == "queries" else "context"
        expected = [getattr(p, kind)(frame) for p, frame in zip(alone, inputs, strict=True)]
        torch.testing.assert_close(short, torch.cat([prefix, *expected, suffix], 1))


@each_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("grid", GRIDS)
def test_text_stays_as_it_is(randn, method, grid, dtype):
    x = randn(2, grid.sequence_tokens, 8).to(dtype)
    plan = joint(method, x, grid)
    first, _, last = parts(x, grid, 24)
    for short in (plan.queries(x), plan.keys(x), plan.values(x), plan.restore(plan.queries(x))):
        assert torch.equal(short[:, : grid.prefix], first)
        assert torch.equal(short[:, short.shape[1] - grid.suffix :], last)


@each_method
def test_queries_are_kept_where_nothing_merges(randn, method):
    x = randn(2, ALL.sequence_tokens, 8)
    plan = joint(method, x, ALL)
    same = plan.queries(x) is x and plan.restore(x) is x if plan.keeps_queries else False
    assert same == plan.keeps_queries == (not isinstance(method, TokenMerging))


@each_method
@pytest.mark.parametrize("grid", GRIDS)
def test_restoring_puts_every_token_back_in_its_place(randn, method, grid):
    plan = joint(method, randn(2, grid.sequence_tokens, 8), grid)
    groups = torch.arange(grid.sequence_tokens).float().expand(2, -1)[..., None]
    kept = JointPlan(grid, plan.plan, plan.plan.unblended())
    restored = kept.restore(kept.queries(groups))
    assert restored.shape == groups.shape
    prefix, frames, suffix = parts(restored - groups, grid, 24)
    assert not prefix.any() and not suffix.any()
    for number, frame in enumerate(parts(restored, grid, 24)[1]):
        start = grid.prefix + 24 * number
        assert ((frame >= start) & (frame < start + 24)).all(), "a token stays in its frame"


@each_method
@pytest.mark.parametrize("grid", GRIDS)
def test_rotary_keys_and_queries_are_tokens_that_exist(randn, method, grid):
    x = randn(2, grid.sequence_tokens, 8)
    plan = joint(method, x, grid, rotary=True)
    for short in (plan.queries(x), plan.keys(x)):
        for sample, tokens in zip(short, x, strict=True):
            assert (sample[:, None] == tokens).all(-1).any(1).all()
    values = plan.values(x)
    blended = ~(values[:, :, None] == x[:, None]).all(-1).any(2)
    assert blended.any() == (not isinstance(method, KVSelection)), "values are blended"


@each_method
def test_keys_and_values_belong_together(randn, method):
    """Rotary keys come from the group that their value stands for."""
    x = randn(2, ALL.sequence_tokens, 8)
    plan = joint(method, x, ALL, rotary=True)
    constant = torch.arange(ALL.frames).repeat_interleave(24)  # the number of the frame
    sequence = torch.cat([torch.full((5,), -1), constant, torch.full((7,), -2)]).float()
    sequence = sequence.expand(2, -1)[..., None]
    torch.testing.assert_close(plan.keys(sequence), plan.values(sequence))


def attention(q, k, v, bias=None):
    mask = None if bias is None else bias[:, None]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask)


@pytest.mark.parametrize("method", [*METHODS[:1], *METHODS[2:3]], ids=lambda method: method.name)
@pytest.mark.parametrize("grid", GRIDS)
def test_proportional_keys_lose_nothing_where_the_image_repeats_itself(randn, method, grid):
    """One colour: every key stands for its group exactly, and text keeps its share."""
    if isinstance(method, TokenMerging):
        method = TokenMerging(0.5, proportional=True)
    text, colour = randn(2, grid.sequence_tokens, 8), randn(2, grid.frames, 8, seed=1)
    prefix, _, suffix = parts(text, grid, 24)
    x = torch.cat([prefix, colour.repeat_interleave(24, 1), suffix], 1)
    plan = joint(method, x, grid, proportional=True)
    q, k, v = plan.queries(x), plan.keys(x), plan.values(x)
    exact = attention(x, x, x)
    torch.testing.assert_close(plan.restore(attention(q, k, v, plan.key_bias(k))), exact)
    if grid.text_tokens:
        unweighted = plan.restore(attention(q, k, v))
        assert not torch.allclose(unweighted, exact, atol=1e-3)


def test_pooled_keys_that_are_all_of_one_kind_need_no_weight(randn):
    x = randn(2, VIDEO.sequence_tokens, 8)
    plan = joint(METHODS[2], x, VIDEO, proportional=True)
    assert plan.key_bias(plan.keys(x)) is None


def test_without_asking_for_it_keys_are_not_weighed(randn):
    x = randn(2, ALL.sequence_tokens, 8)
    for method in METHODS:
        plan = joint(method, x, ALL)
        assert plan.key_bias(plan.keys(x)) is None


@pytest.mark.parametrize("rows", [1, ALL.sequence_tokens])
@each_method
def test_a_mask_keeps_hiding_the_text_that_it_hid(randn, rows, method):
    x = randn(2, ALL.sequence_tokens, 8)
    plan = joint(method, x, ALL)
    hidden = [1, 4, ALL.sequence_tokens - 2]
    mask = torch.ones(1, rows, ALL.sequence_tokens, dtype=torch.bool)
    mask[..., hidden] = False
    assert even_over_image(mask, ALL)
    changed = x.clone()
    changed[:, hidden] += 100
    short = plan.mask(mask)
    results = [
        scaled_dot_product_attention(
            plan.queries(x), plan.keys(tokens), plan.values(tokens), attn_mask=short
        )
        for tokens in (x, changed)
    ]
    torch.testing.assert_close(results[0], results[1])


def test_a_mask_may_treat_text_rows_differently():
    """Padding that sees only padding: the image's columns are even in every row."""
    tokens = TEXT_FIRST.sequence_tokens
    segment = torch.tensor([0, 0, 1, 1, 1] + [1] * 24)
    mask = segment[:, None] == segment
    assert even_over_image(mask, TEXT_FIRST)
    assert mask.shape == (tokens, tokens)


@pytest.mark.parametrize("place", [(0, 10), (10, 0), (10, 12), (3, 28)])
def test_a_mask_that_singles_out_an_image_token_is_not_even(place):
    mask = torch.zeros(TEXT_FIRST.sequence_tokens, TEXT_FIRST.sequence_tokens)
    mask[place] = -1.0
    assert not even_over_image(mask, TEXT_FIRST)
    assert even_over_image(torch.zeros_like(mask), TEXT_FIRST)


def test_an_identity_plan_returns_its_argument(randn):
    x = randn(1, ALL.sequence_tokens, 4)
    plan = JointPlan(ALL, IdentityPlan(24), IdentityPlan(24).unblended())
    assert plan.queries(x) is plan.keys(x) is plan.values(x) is plan.restore(x) is x

"""What holds for every method: any grid, batch and dtype, each sample as if alone."""

from dataclasses import fields
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigain_core.methods import (
    BlockMerging,
    KeyMerging,
    KeyPairs,
    KVCellSelection,
    KVDownsampling,
    KVSelection,
    Protection,
    SimilarityPruning,
    TokenMerging,
)
from bigain_core.schedules import AlphaCurve, AlphaSchedule
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import AGGREGATES, DESTINATION_RULES
from bigain_core.tokens.plans import MERGE_MODES
from bigain_core.tokens.scoring import SCORERS
from bigain_core.tokens.selection import CELL_MODES, SELECTION_MODES
from tests.core.calls import MIDDLE

sides = st.integers(1, 9)
METHODS = [
    *(TokenMerging(0.7, rule) for rule in DESTINATION_RULES),
    *(TokenMerging(0.6, mode=mode, proportional=True) for mode in MERGE_MODES),
    *(TokenMerging(0.5, protection=Protection(0.3, mode)) for mode in SELECTION_MODES),
    *(TokenMerging(0.5, rule, protection=Protection(0.6)) for rule in DESTINATION_RULES),
    TokenMerging(1.0, cell=3, scorer="variance", padding="replicate"),
    *(BlockMerging(0.7, aggregate) for aggregate in AGGREGATES),
    *(BlockMerging(0.4, cell=3, mode=mode, proportional=True) for mode in MERGE_MODES),
    SimilarityPruning(0.7),
    SimilarityPruning(1.0, noise=0.0, cell=3),
    KVDownsampling(2, AlphaSchedule(0.8, 1.2)),
    KVDownsampling(4, AlphaCurve(((999, 0.0), (300, 1.0), (0, 1.2)))),
    KVDownsampling(3, random_places=True),
    KVDownsampling(2, AlphaSchedule(1.0, 1.0), random_places=True, opposite=True),
    *(KVSelection(choice) for choice in SELECTION_MODES),
    *(KVCellSelection(choice) for choice in CELL_MODES),
    KVCellSelection("high", 3, 1.0),
    *(KeyMerging(ratio, window, cell) for ratio, window, cell in ((0.75, 4, 2), (0.5, 16, 3))),
    *(KeyPairs(ratio) for ratio in (0.4, 0.75, 0.9375)),
    *(KeyPairs(ratio, centred=True) for ratio in (0.4, 0.75)),
    *(TokenMerging(0.7, rule, frames=3) for rule in DESTINATION_RULES if rule != "published"),
    TokenMerging(0.5, frames=2, scorer="cosine-to-mean", protection=Protection(0.3)),
    TokenMerging(0.9, cell=1, frames=4, mode="mlerp", proportional=True),
    KVDownsampling(2, AlphaSchedule(0.8, 1.2), frames=3),
    KeyMerging(0.5, 4, frames=2),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def on_grid(method, height, width, frames=6):
    """A film for a method in which some frames share keys, an image for others."""
    return TokenGrid(height, width, frames if method.frames > 1 else 1)


def carried_out(plan, x):
    """(queries, context, restored queries) of x, which have the shapes that the plan tells."""
    queries, context = plan.queries(x), plan.context(x)
    restored = plan.restore(queries)
    assert queries.shape == (len(x), plan.query_tokens, x.shape[2])
    assert context.shape == (len(x), plan.context_tokens, x.shape[2])
    assert restored.shape == x.shape
    assert plan.key_bias is None or plan.key_bias.shape == context.shape[:2]
    return queries, context, restored


@every_method
@settings(max_examples=20)
@given(
    height=sides,
    width=sides,
    frames=st.integers(1, 5),
    batch=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_any_grid_batch_and_dtype_gives_finite_tokens(
    randn, method, height, width, frames, batch, dtype
):
    grid = on_grid(method, height, width, frames)
    x = randn(batch, grid.tokens, 8, seed=height).to(dtype)
    plan = method.plan(x, grid, MIDDLE, 0)
    found = carried_out(plan, x)
    for out in found:
        assert out.dtype == dtype and out.isfinite().all()
    assert plan.key_bias is None or plan.key_bias.isfinite().all()
    for k in range(batch):
        row = x[k : k + 1]
        alone = carried_out(method.plan(row, grid, MIDDLE, 0), row)
        assert all(torch.equal(a[k], b[0]) for a, b in zip(found, alone, strict=True))


def almost_alike(batch, tokens, channels, seed):
    """Tokens of three directions and any length: most cosines are equal but for rounding."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(3, channels, generator=generator)
    chosen = torch.randint(3, (batch, tokens), generator=generator)
    return directions[chosen] * torch.rand(batch, tokens, 1, generator=generator)


LAYOUTS = {
    "alone": lambda x: x.clone(),
    "channels first": lambda x: x.mT.contiguous().mT,
    "tokens first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "part of a wider tensor": lambda x: torch.cat((x, x), dim=2)[..., : x.shape[2]],
}


def decided(method, x, grid):
    """All tensors in the plan, and the scores."""
    plan, scores = method.plan(x, grid, MIDDLE, 0), method.scores(x, grid)
    found = [*(getattr(plan, field.name) for field in fields(plan)), scores]
    return [value for value in found if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@every_method
def test_a_plan_depends_neither_on_the_batch_nor_on_strides(method, dtype):
    for height, width, channels in [(7, 7, 17), (6, 6, 31), (9, 7, 7), (4, 17, 64)]:
        grid = on_grid(method, height, width)
        x = almost_alike(3, grid.tokens, channels, seed=channels).to(dtype)
        together = decided(method, x, grid)
        for k, (name, layout) in enumerate(LAYOUTS.items(), -1):  # the last sample for two
            alone = decided(method, layout(x[k : k + 1 or None]), grid)
            same = [torch.equal(a[k], b[0]) for a, b in zip(together, alone, strict=True)]
            assert all(same), name


@every_method
def test_every_grid_up_to_9_x_9_has_a_shape_without_values(method):
    """Sides that cells of 2, 3 and 4 divide and do not, and those that are smaller."""
    for height, width in product((1, 3, 7, 8), repeat=2):
        grid = on_grid(method, height, width)
        x = torch.empty(2, grid.tokens, 4, device="meta")
        plan = method.plan(x, grid, MIDDLE, 0)
        carried_out(plan, x)
        assert 1 <= plan.query_tokens <= grid.tokens
        assert 1 <= plan.context_tokens <= grid.tokens


@every_method
def test_the_number_of_tokens_does_not_depend_on_their_values(randn, method):
    grid, counts = on_grid(method, 9, 7), set()
    drawn, even = randn(2, grid.tokens, 4), torch.ones(1, grid.tokens, 4)
    for x in (drawn, 0 * drawn, even, -1e4 * drawn[:1]):
        plan = method.plan(x, grid, MIDDLE, 0)
        counts.add((plan.query_tokens, plan.context_tokens))
        assert all(out.isfinite().all() for out in carried_out(plan, x))
    assert len(counts) == 1


@every_method
def test_a_uniform_image_is_left_as_it_is(method):
    """Whatever stands for equal tokens must be that token."""
    grid = on_grid(method, 9, 7)
    x = torch.tensor([1.0, -2.0, 0.5]).expand(1, grid.tokens, 3)
    plan = method.plan(x, grid, MIDDLE, 0)
    for out in carried_out(plan, x):
        torch.testing.assert_close(out, x[:, : out.shape[1]], atol=1e-5, rtol=0)


@every_method
def test_a_plan_repeats_deterministically_and_leaves_the_global_random_state(randn, method):
    grid = on_grid(method, 9, 7)
    x = randn(2, grid.tokens, 8)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    first = carried_out(method.plan(x, grid, MIDDLE, 0), x)
    torch.use_deterministic_algorithms(True)
    try:
        second = carried_out(method.plan(x, grid, MIDDLE, 0), x)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])
    assert np.random.get_state()[2] == numpy_state[2]


@every_method
def test_a_method_can_be_compared_and_kept_in_a_set(method):
    assert {method, type(method)(**vars(method))} == {method}
    assert method.name and not method.is_identity


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("method", [TokenMerging, BlockMerging, KVSelection, KVCellSelection])
def test_every_scorer_serves_every_method_that_scores(randn, method, scorer):
    x, state = randn(2, 35, 4).half(), torch.get_rng_state()
    plan = method(scorer=scorer).plan(x, TokenGrid(5, 7), MIDDLE, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(out.isfinite().all() for out in carried_out(plan, x))
    assert plan.context_tokens < 35

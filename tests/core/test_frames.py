"""Frames of a film that share keys and values: against loops, and clips that stand still."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from bigain_core.compression.rules import Rule
from bigain_core.methods import KeyMerging, KVDownsampling
from bigain_core.methods.base import random_bits
from bigain_core.placement import LayerId
from bigain_core.schedules import AlphaSchedule
from bigain_core.tokens.grid import TokenGrid, frame_runs
from bigain_core.tokens.matching import choose_destinations
from bigain_core.tokens.sequence import JointPlan
from tests.core.calls import MIDDLE, network_call
from tests.core.loops import four_signs, pooled_windows, slow_matching
from tests.core.test_key_merging import slow_sides

LAYER = LayerId(0, "transformer")
FILM = TokenGrid(4, 6, frames=6, prefix=3, suffix=2)
POOLING = [
    KVDownsampling(2, AlphaSchedule(0.4, 0.4), frames=2),
    KVDownsampling(2, AlphaSchedule(1.0, 1.0), frames=3),
    KVDownsampling(1, AlphaSchedule(0.0, 0.0), frames=4),
    KVDownsampling(2, AlphaSchedule(1.0, 1.0), random_places=True, frames=2),
    KVDownsampling(2, AlphaSchedule(1.0, 1.0), random_places=True, opposite=True, frames=2),
]
MERGING = [KeyMerging(window=4, frames=2), KeyMerging(0.0, cell=1, frames=3)]
every_method = pytest.mark.parametrize("method", POOLING + MERGING, ids=lambda m: m.name)


def slow_runs(frames, step):
    """Frames that share keys: the first alone, then `step` each, the last what is left."""
    runs, at = [[0]], 1
    while at < frames:
        runs.append(list(range(at, min(at + step, frames))))
        at += step
    return runs


@pytest.mark.parametrize("frames", range(1, 10))
@pytest.mark.parametrize("step", range(1, 5))
def test_the_first_frame_is_alone_and_the_last_run_has_what_is_left(frames, step):
    found = []
    for part, length in frame_runs(frames, step):
        inside = list(range(frames))[part]
        found += [inside[n : n + length] for n in range(0, len(inside), length)]
    assert found == slow_runs(frames, step)


def joint(method, x, grid, rotary=False, proportional=False):
    """The plan that a layer of a network gets; None where it stays plain."""
    decision = network_call(Rule(method)).visit(LAYER, x, grid)
    if decision is None:
        return None
    positions = decision.plan.unblended() if rotary else decision.plan
    return JointPlan(decision.grid, decision.plan, positions, proportional)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0, 1.3])
@pytest.mark.parametrize(("frames", "step", "factor"), [(6, 2, 2), (5, 2, 3), (4, 5, 1), (2, 3, 2)])
def test_a_film_is_pooled_as_by_loops_over_boxes(randn, frames, step, factor, alpha):
    """Middle frame and nearest token of each box, and the mean of the whole box."""
    grid = TokenGrid(5, 7, frames, prefix=3, suffix=1)
    x = randn(2, grid.sequence_tokens, 4)
    plan = joint(KVDownsampling(factor, AlphaSchedule(alpha, alpha), frames=step), x, grid, True)
    keys, values = [x[:, n] for n in range(3)], [x[:, n] for n in range(3)]
    for run in slow_runs(frames, step):
        for window, nearest in pooled_windows(5, 7, factor):
            box = [3 + frame * 35 + token for frame in run for token in window]
            sampled = x[:, 3 + run[len(run) // 2] * 35 + nearest]
            keys.append(sampled)
            values.append(alpha * sampled + (1 - alpha) * x[:, box].mean(1))
    keys, values = (torch.stack([*rows, x[:, -1]], 1) for rows in (keys, values))
    assert torch.equal(plan.keys(x), keys)
    torch.testing.assert_close(plan.values(x), values)
    assert plan.queries(x) is x and plan.restore(x) is x


@settings(max_examples=40)
@given(
    frames=st.integers(1, 5),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    cell=st.integers(1, 2),
    step=st.integers(2, 3),
    ratio=st.sampled_from([0.0, 0.4, 0.75]),
    seed=st.integers(0, 9999),
)
def test_tokens_join_the_most_alike_destination_of_their_box(
    frames, height, width, cell, step, ratio, seed
):
    grid, window, area = TokenGrid(height, width, frames), 2 * cell, height * width
    metric = four_signs(2, grid.tokens, torch.Generator().manual_seed(seed))
    plan = KeyMerging(ratio, window, cell, seed, frames=step).plan(metric, grid, MIDDLE, 3)
    drawn = random_bits(grid.cells(cell).tokens, seed, MIDDLE, 3, metric.device)
    places = choose_destinations(metric[:1, :area, 0], grid.frame, cell, "random", drawn)[0]
    offsets = [n // cell**2 for n in drawn.tolist()]
    for sample in range(2):
        expected = {}
        for run in slow_runs(frames, step):
            removed = 1 - (1 - ratio) / len(run)
            chosen = {
                run[offset % len(run)] * area + place
                for place, offset in zip(places.tolist(), offsets, strict=True)
            }
            for top, bottom in slow_sides(height, window):
                for start, end in slow_sides(width, window):
                    inside = [
                        frame * area + y * width + x
                        for frame in run
                        for y in range(top, bottom)
                        for x in range(start, end)
                    ]
                    own = [inside.index(token) for token in inside if token in chosen]
                    most = int(len(inside) * removed + 1e-9)
                    count = min(most, len(inside) - len(own)) if own else 0
                    local = slow_matching([metric[sample, n].tolist() for n in inside], own, count)
                    expected |= {inside[s]: {inside[d] for d in to} for s, to in local.items()}
        assert plan.context_tokens == grid.tokens - len(expected)
        for token, goal in enumerate(plan.target[sample].tolist()):
            assert goal in expected.get(token, {token})


def attention(plan, x):
    """Without positions in time: what tells frames apart is their content alone."""
    if plan is None:
        return scaled_dot_product_attention(x, x, x)
    k, v = plan.keys(x), plan.values(x)
    bias = plan.key_bias(k)
    out = scaled_dot_product_attention(x, k, v, None if bias is None else bias[:, None])
    return plan.restore(out)


@pytest.mark.parametrize("rotary", [False, True])
@every_method
def test_a_still_clip_stands_still_and_costs_once(randn, method, rotary):
    """Every frame gets what the method gives for that frame as an image."""
    image, grid = randn(2, 24, 8), TokenGrid(4, 6, frames=6)
    film = image.repeat(1, 6, 1)
    plan = joint(method, film, grid, rotary)
    assert plan.keys(film).shape[1] <= 24 * len(slow_runs(6, method.frames))
    found = attention(plan, film).unflatten(1, (6, 24))
    of_image = attention(joint(method, image, TokenGrid(4, 6), rotary), image)
    expected = of_image[:, None].expand_as(found)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grid", [FILM, TokenGrid(4, 6, frames=6)])
@pytest.mark.parametrize(
    "method", [KVDownsampling(1, frames=2), KeyMerging(0.0, cell=1, frames=2)], ids=lambda m: m.name
)
def test_runs_of_equal_frames_lose_nothing(randn, method, grid):
    """A run of one frame, two of two and one of one, each of another image."""
    x, images = randn(2, grid.sequence_tokens, 8), randn(2, 4, 24, 8, seed=1)
    film = images[:, [0, 1, 1, 2, 2, 3]].flatten(1, 2)
    x = torch.cat([x[:, : grid.prefix], film, x[:, x.shape[1] - grid.suffix :]], 1)
    plan = joint(method, x, grid, proportional=True)
    assert plan.keys(x).shape[1] == grid.text_tokens + 4 * 24
    plain = scaled_dot_product_attention(x, x, x)
    torch.testing.assert_close(attention(plan, x), plain, rtol=1e-5, atol=1e-5)


def test_pooled_keys_of_a_shorter_run_weigh_less_even_where_nothing_is_weighed(randn):
    """Otherwise the first frame would count as much as the frames of a whole run together."""
    x = randn(2, FILM.sequence_tokens, 8)
    plan = joint(KVDownsampling(2, frames=2), x, FILM)
    runs = [0.5] * 6 + [1.0] * 12 + [0.5] * 6
    weights = torch.tensor([1.0] * 3 + runs + [1.0] * 2).expand(2, -1)
    torch.testing.assert_close(plan.key_bias(plan.keys(x)).exp(), weights)
    even = TokenGrid(4, 6, frames=3, prefix=3)
    x = randn(1, even.sequence_tokens, 8)
    assert joint(KVDownsampling(2, frames=1), x, even).key_bias(x) is None


def test_decisions_are_the_same_in_all_runs(randn):
    """Otherwise what is drawn would flicker: keys of equal frames are equal tokens."""
    image, grid = randn(1, 24, 8), TokenGrid(4, 6, frames=7)
    for method in (POOLING[3], KeyMerging(frames=2)):
        plan = joint(method, image.repeat(1, 7, 1), grid, rotary=True)
        places = torch.arange(24.0).repeat(7)[None, :, None]
        runs = plan.keys(places).unflatten(1, (4, -1)).sort(2).values
        assert torch.equal(runs, runs[:, :1].expand_as(runs))


@every_method
def test_one_frame_is_an_image(randn, method):
    x, grid = randn(2, 63, 8), TokenGrid(9, 7)
    alone = type(method)(**vars(method) | {"frames": 1})
    plans = [joint(one, x, grid) for one in (method, alone)]
    if plans[0] is None:
        assert plans[1] is None or alone.is_identity
        return
    for step in ("keys", "values"):
        assert torch.equal(*(getattr(plan, step)(x) for plan in plans))
    assert plans[0].grid == grid


@every_method
def test_a_plan_depends_neither_on_the_batch_nor_on_values_in_its_shape(randn, method):
    grid = TokenGrid(5, 7, frames=6)
    x = randn(3, grid.tokens, 8)
    plan = joint(method, x, grid)
    for sample in range(3):
        row = x[sample : sample + 1]
        alone = joint(method, row, grid)
        assert torch.equal(alone.keys(row)[0], plan.keys(x)[sample])
        assert torch.equal(alone.values(row)[0], plan.values(x)[sample])
    shapes = torch.empty(1, grid.tokens, 8, device="meta")
    counted = method.plan(shapes, grid, MIDDLE, 0)
    assert counted.context(shapes).shape[1] == counted.context_tokens == plan.keys(x).shape[1]
    blank = joint(method, torch.zeros(1, grid.tokens, 8), grid).keys(x[:1])
    assert blank.shape[1] == counted.context_tokens


@every_method
def test_a_film_in_parts_is_decided_as_at_once(randn, method, monkeypatch):
    """Windows of a film are compared some at a time, as all of them would take too much memory."""
    grid = TokenGrid(8, 8, frames=5)
    x = randn(2, grid.tokens, 8)
    whole = joint(method, x, grid)
    monkeypatch.setattr("bigain_core.methods.key_merging.AT_ONCE", 1)
    assert torch.equal(joint(method, x, grid).keys(x), whole.keys(x))


@pytest.mark.parametrize("kind", [KVDownsampling, KeyMerging])
def test_frames_below_1_are_refused(kind):
    with pytest.raises(ValueError, match="at least 1 frame .* got 0"):
        kind(frames=0)
    assert not kind(frames=2).is_identity

"""Which token of each cell becomes a destination."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import DESTINATION_RULES, choose_destinations

# fmt: off
WORKED_EXAMPLE = torch.tensor([[
     3.0,  9.0,  7.0,  5.0,
     8.0,  1.0,  4.0,  6.0,
    12.0,  2.0, 15.0, 10.0,
    11.0, 14.0, 13.0,  0.0,
]])
# fmt: on

sides = st.integers(1, 9)
cells = st.integers(1, 4)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def cell_members(height, width, cell):
    """Tokens of each whole cell in raster order, cells in raster order."""
    return [
        [(top + dy) * width + left + dx for dy in range(cell) for dx in range(cell)]
        for top in range(0, height - cell + 1, cell)
        for left in range(0, width - cell + 1, cell)
    ]


def slow_published(row, height, width, cell):
    """Strips of cell * cell entries of a band of rows, whose places count as offsets in a cell."""
    columns = width // cell
    chosen = []
    for top in range(0, height - cell + 1, cell):
        band = [row[(top + y) * width + x] for y in range(cell) for x in range(columns * cell)]
        for column in range(columns):
            strip = band[column * cell * cell : (column + 1) * cell * cell]
            dy, dx = divmod(strip.index(min(strip)), cell)
            chosen.append((top + dy) * width + column * cell + dx)
    return chosen


def protect(height, width, count, seed):
    """`count` random tokens of each of two samples."""
    return torch.rand(2, height * width, generator=seeded(seed)).argsort(1)[:, :count]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("top-left", [0, 2, 8, 10]), ("lowest", [5, 6, 9, 15]), ("published", [0, 3, 9, 15])],
)
def test_worked_example(rule, expected):
    chosen = choose_destinations(WORKED_EXAMPLE, TokenGrid(4, 4), 2, rule)
    assert chosen.tolist() == [expected]


@given(height=sides, width=sides, cell=cells, levels=st.integers(1, 4), seed=st.integers(0, 999))
def test_lowest_is_the_first_minimum_of_each_cell(height, width, cell, levels, seed):
    scores = torch.randint(levels, (2, height * width), generator=seeded(seed)).float()
    chosen = choose_destinations(scores, TokenGrid(height, width), cell, "lowest")
    for sample, row in zip(chosen.tolist(), scores.tolist(), strict=True):
        members = cell_members(height, width, cell)
        assert sample == [min(tokens, key=lambda n, row=row: (row[n], n)) for tokens in members]


@given(height=sides, width=sides, cell=cells, levels=st.integers(1, 99), seed=st.integers(0, 999))
def test_the_published_rule_equals_a_loop_over_strips(height, width, cell, levels, seed):
    scores = torch.randint(levels, (2, height * width), generator=seeded(seed)).float()
    chosen = choose_destinations(scores, TokenGrid(height, width), cell, "published")
    assert chosen.tolist() == [slow_published(row, height, width, cell) for row in scores.tolist()]


@pytest.mark.parametrize("cell", [2, 4])
def test_the_published_rule_finds_the_lowest_of_a_cell_by_chance_alone(randn, cell):
    scores, grid = randn(8, 4096), TokenGrid(64, 64)
    lowest, published = (
        choose_destinations(scores, grid, cell, rule) for rule in ("lowest", "published")
    )
    share = (lowest == published).double().mean().item()
    assert share == pytest.approx(1 / cell**2, abs=0.03)  # at least 2048 cells: three deviations


@pytest.mark.parametrize(("height", "width"), [(8, 2), (9, 3), (2, 2)])
def test_the_published_rule_is_right_where_a_band_is_one_cell(randn, height, width):
    """Its mistake is the order of entries, and a band one cell wide has just the right one."""
    scores, grid = randn(4, height * width), TokenGrid(height, width)
    if width > 2:
        scores[:, 2::3] = -9  # the remainder column is in no strip
    lowest, published = (
        choose_destinations(scores, grid, 2, rule) for rule in ("lowest", "published")
    )
    assert torch.equal(lowest, published)


@given(height=sides, width=sides, cell=cells, rule=st.sampled_from(["top-left", "random"]))
def test_content_free_rules_take_one_token_of_each_whole_cell(height, width, cell, rule):
    scores = torch.zeros(3, height * width)
    chosen = choose_destinations(scores, TokenGrid(height, width), cell, rule, seeded(0)).tolist()
    members = cell_members(height, width, cell)
    assert chosen[0] == chosen[1] == chosen[2]
    assert len(chosen[0]) == len(members)
    for token, tokens in zip(chosen[0], members, strict=True):
        assert token == tokens[0] if rule == "top-left" else token in tokens


@given(height=sides, width=sides, cell=cells, data=st.data(), seed=st.integers(0, 999))
def test_a_protected_lowest_token_gives_way_to_the_next_lowest(height, width, cell, data, seed):
    protected = protect(height, width, data.draw(st.integers(0, height * width)), seed)
    scores = torch.randint(5, (2, height * width), generator=seeded(seed)).float()
    chosen = choose_destinations(
        scores, TokenGrid(height, width), cell, "lowest", protected=protected
    )
    members = cell_members(height, width, cell)
    for sample, (row, closed) in enumerate(zip(scores.tolist(), protected.tolist(), strict=True)):
        for token, tokens in zip(chosen[sample].tolist(), members, strict=True):
            left = [n for n in tokens if n not in closed]
            assert token in tokens
            assert not left or token == min(left, key=lambda n, row=row: (row[n], n))


@given(height=sides, width=sides, cell=cells, data=st.data(), seed=st.integers(0, 999))
@pytest.mark.parametrize("rule", DESTINATION_RULES)
def test_a_protected_choice_gives_way_and_any_other_stays(rule, height, width, cell, data, seed):
    grid = TokenGrid(height, width)
    protected = protect(height, width, data.draw(st.integers(0, height * width)), seed)
    scores = torch.randn(2, height * width, generator=seeded(seed))
    free = choose_destinations(scores, grid, cell, rule, seeded(seed)).tolist()
    chosen = choose_destinations(scores, grid, cell, rule, seeded(seed), protected).tolist()
    for sample, closed in enumerate(protected.tolist()):
        places = zip(chosen[sample], free[sample], cell_members(height, width, cell), strict=True)
        for token, wanted, tokens in places:
            left = [n for n in tokens if n not in closed]
            assert token in (left or tokens)
            if wanted in left:
                assert token == wanted
            elif left and rule == "top-left":
                assert token == left[0]
            elif left and rule == "random":
                assert token == next((n for n in left if n > wanted), left[0])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("top-left", [1, 2, 8, 10]), ("lowest", [5, 3, 12, 15]), ("published", [5, 3, 13, 15])],
)
def test_worked_example_with_protected_tokens(rule, expected):
    """Without its first entry the strip 3, 9, 7, 5 of the first cell is lowest at offset 3."""
    protected = torch.tensor([[0, 6, 9]])
    chosen = choose_destinations(WORKED_EXAMPLE, TokenGrid(4, 4), 2, rule, None, protected)
    assert chosen.tolist() == [expected]


@pytest.mark.parametrize("rule", DESTINATION_RULES)
@pytest.mark.parametrize(("height", "width"), [(2, 8), (8, 2), (2, 2)])
def test_a_cell_larger_than_the_grid_has_no_destination(rule, height, width):
    scores = torch.zeros(2, height * width)
    chosen = choose_destinations(scores, TokenGrid(height, width), 3, rule, seeded(0))
    assert chosen.shape == (2, 0)


def test_random_is_drawn_from_the_given_generator():
    scores, grid = torch.zeros(1, 4096), TokenGrid(64, 64)
    first = choose_destinations(scores, grid, 2, "random", seeded(1))
    assert torch.equal(first, choose_destinations(scores, grid, 2, "random", seeded(1)))
    assert not torch.equal(first, choose_destinations(scores, grid, 2, "random", seeded(2)))
    generator = seeded(1)
    choose_destinations(scores, grid, 2, "random", generator)
    again = choose_destinations(scores, grid, 2, "random", generator)
    assert not torch.equal(first, again)


def test_random_does_not_depend_on_the_batch_size():
    grid = TokenGrid(6, 8)
    alone, many = seeded(3), seeded(3)
    for batch in (2, 3, 5):  # later draws from the same generator agree, too
        expected = choose_destinations(torch.zeros(1, 48), grid, 2, "random", alone)
        chosen = choose_destinations(torch.zeros(batch, 48), grid, 2, "random", many)
        assert torch.equal(chosen, expected.expand(batch, -1))


def test_random_offsets_are_uniform():
    grid = TokenGrid(128, 128)
    chosen = choose_destinations(torch.zeros(1, 128 * 128), grid, 2, "random", seeded(0))[0]
    offset = chosen // 128 % 2 * 2 + chosen % 2
    share = torch.bincount(offset, minlength=4) / len(offset)
    assert (share - 0.25).abs().max() < 0.03  # 4096 draws: four standard deviations


@pytest.mark.parametrize("rule", DESTINATION_RULES)
def test_destinations_have_a_shape_without_values(rule):
    scores, protected = torch.empty(2, 35, device="meta"), torch.empty(2, 3, device="meta").long()
    for closed in (None, protected):
        chosen = choose_destinations(scores, TokenGrid(5, 7), 2, rule, seeded(0), closed)
        assert (chosen.shape, chosen.dtype, chosen.device.type) == ((2, 6), torch.long, "meta")


@pytest.mark.parametrize("rule", DESTINATION_RULES)
def test_global_random_state_is_left_alone(rule):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    choose_destinations(torch.zeros(1, 16), TokenGrid(4, 4), 2, rule, seeded(0))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[2] == numpy_state[2]
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])


@pytest.mark.parametrize(("rule", "generator"), [("smoothest", seeded(0)), ("random", None)])
def test_unknown_rule_or_missing_generator_is_refused(rule, generator):
    with pytest.raises(ValueError, match=rf"expected a destination rule of .*got '{rule}'"):
        choose_destinations(torch.zeros(1, 4), TokenGrid(2, 2), 2, rule, generator)

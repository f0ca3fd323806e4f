"""Which token of each cell becomes a destination."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.grid import TokenGrid
from bigain_core.matching import choose_destinations

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


@pytest.mark.parametrize(
    ("rule", "expected"), [("top-left", [0, 2, 8, 10]), ("lowest", [5, 6, 9, 15])]
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


@given(height=sides, width=sides, cell=cells, rule=st.sampled_from(["top-left", "random"]))
def test_content_free_rules_take_one_token_of_each_whole_cell(height, width, cell, rule):
    scores = torch.zeros(3, height * width)
    chosen = choose_destinations(scores, TokenGrid(height, width), cell, rule, seeded(0)).tolist()
    members = cell_members(height, width, cell)
    assert chosen[0] == chosen[1] == chosen[2]
    assert len(chosen[0]) == len(members)
    for token, tokens in zip(chosen[0], members, strict=True):
        assert token == tokens[0] if rule == "top-left" else token in tokens


@pytest.mark.parametrize("rule", ["lowest", "top-left", "random"])
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


@pytest.mark.parametrize("rule", ["lowest", "top-left", "random"])
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

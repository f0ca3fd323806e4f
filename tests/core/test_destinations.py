"""Which token of each cell becomes a destination."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigain_core.methods.base import random_bits
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import DESTINATION_RULES, choose_destinations
from tests.core.calls import MIDDLE
from tests.core.loops import WORKED_EXAMPLE, cell_members, slow_lowest, slow_published

sides = st.integers(1, 9)
cells = st.integers(1, 4)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def drawn(grid, cell, seed):
    """A random number for each square."""
    return torch.randint(2**32, (grid.cells(cell).tokens,), generator=seeded(seed))


def protect(height, width, count, seed):
    """`count` random tokens of each of two samples."""
    return torch.rand(2, height * width, generator=seeded(seed)).argsort(1)[:, :count]


@pytest.mark.parametrize(
    ("rule", "protected", "expected"),
    [
        ("top-left", None, [0, 2, 8, 10]),
        ("lowest", None, [5, 6, 9, 15]),
        ("published", None, [0, 3, 9, 15]),
        ("top-left", torch.tensor([[0, 6, 9]]), [1, 2, 8, 10]),
        ("lowest", torch.tensor([[0, 6, 9]]), [5, 3, 12, 15]),
        ("published", torch.tensor([[0, 6, 9]]), [5, 3, 13, 15]),
    ],
)
def test_worked_example(rule, protected, expected):
    """Without its first entry the strip 3, 9, 7, 5 of the first cell is lowest at offset 3."""
    chosen = choose_destinations(WORKED_EXAMPLE, TokenGrid(4, 4), 2, rule, None, protected)
    assert chosen.tolist() == [expected]


def check_against_the_loop(rule, chosen_by_loop, height, width, cell, levels, seed):
    scores = torch.randint(levels, (2, height * width), generator=seeded(seed)).float()
    chosen = choose_destinations(scores, TokenGrid(height, width), cell, rule)
    assert chosen.tolist() == [chosen_by_loop(row, height, width, cell) for row in scores.tolist()]


@given(height=sides, width=sides, cell=cells, levels=st.integers(1, 4), seed=st.integers(0, 999))
def test_lowest_is_the_first_minimum_of_each_cell(height, width, cell, levels, seed):
    check_against_the_loop("lowest", slow_lowest, height, width, cell, levels, seed)


@given(height=sides, width=sides, cell=cells, levels=st.integers(1, 99), seed=st.integers(0, 999))
def test_the_published_rule_equals_a_loop_over_strips(height, width, cell, levels, seed):
    check_against_the_loop("published", slow_published, height, width, cell, levels, seed)


@given(height=sides, width=sides, cell=cells, rule=st.sampled_from(["top-left", "random"]))
def test_content_free_rules_take_one_token_of_each_whole_cell(height, width, cell, rule):
    scores, grid = torch.zeros(3, height * width), TokenGrid(height, width)
    chosen = choose_destinations(scores, grid, cell, rule, drawn(grid, cell, 0)).tolist()
    members = cell_members(height, width, cell)
    assert chosen[0] == chosen[1] == chosen[2]
    assert len(chosen[0]) == len(members)
    for token, tokens in zip(chosen[0], members, strict=True):
        assert token == tokens[0] if rule == "top-left" else token in tokens


@given(height=sides, width=sides, cell=cells, data=st.data(), seed=st.integers(0, 999))
@pytest.mark.parametrize("rule", DESTINATION_RULES)
def test_a_protected_choice_gives_way_and_any_other_stays(rule, height, width, cell, data, seed):
    grid = TokenGrid(height, width)
    protected = protect(height, width, data.draw(st.integers(0, height * width)), seed)
    scores = torch.randint(5, (2, height * width), generator=seeded(seed)).float()
    numbers = drawn(grid, cell, seed)
    free = choose_destinations(scores, grid, cell, rule, numbers).tolist()
    chosen = choose_destinations(scores, grid, cell, rule, numbers, protected).tolist()
    for sample, closed in enumerate(protected.tolist()):
        places = zip(chosen[sample], free[sample], cell_members(height, width, cell), strict=True)
        for token, wanted, tokens in places:
            left = [n for n in tokens if n not in closed]
            assert token in (left or tokens)
            if wanted in left:
                assert token == wanted
            elif left and rule == "top-left":
                assert token == left[0]
            elif left and rule == "lowest":
                assert token == min(left, key=scores[sample].tolist().__getitem__)
            elif left and rule == "random":
                assert token == next((n for n in left if n > wanted), left[0])


@given(height=sides, width=sides, cell=cells, seed=st.integers(0, 999))
def test_random_is_the_offset_that_the_numbers_tell(height, width, cell, seed):
    grid = TokenGrid(height, width)
    numbers = drawn(grid, cell, seed)
    chosen = choose_destinations(torch.zeros(1, grid.tokens), grid, cell, "random", numbers)
    members = cell_members(height, width, cell)
    expected = [tokens[n % cell**2] for tokens, n in zip(members, numbers.tolist(), strict=True)]
    assert chosen.tolist() == [expected]


def test_random_offsets_are_uniform():
    grid = TokenGrid(128, 128)
    numbers = random_bits(64 * 64, 0, MIDDLE, 0, torch.device("cpu"))
    chosen = choose_destinations(torch.zeros(1, 128 * 128), grid, 2, "random", numbers)[0]
    offset = chosen // 128 % 2 * 2 + chosen % 2
    share = torch.bincount(offset, minlength=4) / len(offset)
    assert (share - 0.25).abs().max() < 0.03  # 4096 draws: four standard deviations


@pytest.mark.parametrize(("rule", "numbers"), [("smoothest", torch.zeros(1)), ("random", None)])
def test_unknown_rule_or_missing_numbers_are_refused(rule, numbers):
    with pytest.raises(ValueError, match=rf"expected a destination rule of .*got '{rule}'"):
        choose_destinations(torch.zeros(1, 4), TokenGrid(2, 2), 2, rule, numbers)

"""Clips that attention filters: against means by loops, and clips that stand still."""

import pytest
import torch

from benchmarks.video import CLIPS, COLUMNS, FRAMES, ROWS, clip, methods
from benchmarks.video_seen import (
    CONTRAST,
    FINE,
    LIKENESS,
    SIDE,
    film_of,
    filtered,
    judged,
    shown,
    tokens_of,
)
from bigain_core.methods import KeyMerging, KVDownsampling


@pytest.fixture(scope="module")
def films():
    return {kind: clip(kind, 3, ROWS * SIDE, COLUMNS * SIDE)[0] for kind in CLIPS}


def square(film, number):
    """Pixels (3, SIDE, SIDE) of a token."""
    frame, place = divmod(number, ROWS * COLUMNS)
    row, column = (SIDE * n for n in divmod(place, COLUMNS))
    return film[:, frame, row : row + SIDE, column : column + SIDE]


def test_a_token_is_a_square_of_a_frame(films):
    film = films["squares"]
    tokens = tokens_of(film)
    assert tokens.shape == (1, FRAMES * ROWS * COLUMNS, 3 * SIDE**2)
    for number in (0, 17, 500, 2000, 2495):
        assert torch.equal(tokens[0, number].view(3, SIDE, SIDE), square(film, number))
    assert torch.equal(film_of(tokens), film)


def test_plain_attention_is_a_mean_of_squares_by_how_alike_they_are(films):
    film, count = films["pan"], FRAMES * ROWS * COLUMNS
    found = filtered(film, 0.5)
    squares = [square(film, n).double() for n in range(count)]
    coarse = torch.stack([
        torch.stack([
            s[:, i : i + FINE, j : j + FINE].mean((1, 2))
            for i in range(0, SIDE, FINE) for j in range(0, SIDE, FINE)
        ]).flatten()
        for s in squares
    ])  # fmt: skip
    for number in (3, 700, 2400):
        alike = torch.cosine_similarity(coarse[number][None], coarse)
        weights = (LIKENESS * alike).softmax(0)
        expected = sum(w * s for w, s in zip(weights, squares, strict=True)).float()
        torch.testing.assert_close(square(found, number), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", [KVDownsampling(1), KeyMerging(0.0)], ids=lambda m: m.name)
def test_a_method_that_removes_nothing_changes_nothing(films, method):
    plain = filtered(films["cuts"], 0.5)
    assert torch.equal(filtered(films["cuts"], 0.5, method), plain)


@pytest.mark.parametrize("name", ["IE-KVD", "average", "key merging"])
def test_frames_that_are_alike_cost_nothing_to_share(films, name):
    shared = methods()[name, "4 x 1 x 1"]
    plain, found = (filtered(films["still"], 1.0, method) for method in (None, shared))
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)
    moving, other = (filtered(films["squares"], 1.0, method) for method in (None, shared))
    assert (moving - other).abs().max() > 0.01


def test_every_method_is_judged_against_plain_attention(films):
    seen = []

    def judge(film, reference):
        seen.append((film, reference))
        return 10 - (film - reference).abs().max().item()

    rows = list(judged((0.0,), judge))
    assert [tuple(row[:2]) for row in rows] == list(methods()) and len(rows[0]) == 2 + len(CLIPS)
    assert len(seen) == len(rows) * len(CLIPS)
    for kind, (_, reference) in zip(CLIPS, seen, strict=False):
        assert torch.equal(reference, shown(filtered(films[kind], 1.0)))
    over_time = next(row for row in rows if row[:2] == ["key merging", "4 x 1 x 1"])
    assert over_time[2] == "10.00" and all(float(cell) < 10 for cell in over_time[3:])


def test_what_is_shown_is_grey_in_the_middle_and_within_its_range():
    levels = torch.tensor([0.0, 1.0, -9.0, 9.0])
    assert shown(levels).tolist() == pytest.approx([0.5, 0.5 + CONTRAST, 0.0, 1.0])

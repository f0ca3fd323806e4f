"""Slow references that several tests share: one token after the other, in double precision."""

import math
import statistics
from fractions import Fraction
from itertools import product
from math import floor

import numpy as np
import torch
from hypothesis import strategies as st

from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import choose_destinations

# fmt: off
WORKED_EXAMPLE = torch.tensor([[
     3.0,  9.0,  7.0,  5.0,
     8.0,  1.0,  4.0,  6.0,
    12.0,  2.0, 15.0, 10.0,
    11.0, 14.0, 13.0,  0.0,
]])
# fmt: on


def four_signs(batch, count, generator):
    """Tokens of four signs have length 2 and cosines in quarters: many ties, and fp32 is exact."""
    return torch.randint(2, (batch, count, 4), generator=generator) * 2.0 - 1


@st.composite
def matching_cases(draw):
    """Tokens of four signs, random destinations of cells and a ratio."""
    grid = TokenGrid(draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    metric = four_signs(2, grid.tokens, generator)
    cell = draw(st.integers(1, 3))
    drawn = torch.randint(2**32, (grid.cells(cell).tokens,), generator=generator)
    chosen = choose_destinations(metric[..., 0], grid, cell, "random", drawn)
    return metric, chosen, draw(st.floats(0, 1))


def cosine(a, b):
    lengths = (max(math.sqrt(sum(value * value for value in vector)), 1e-12) for vector in (a, b))
    return sum(p * q for p, q in zip(a, b, strict=True)) / math.prod(lengths)


def slow_matching(tokens, destinations, merged, protected=()):
    """{source: its best destinations} for the sources that merge; equal sources in raster order."""
    free = [d for d in destinations if d not in protected]
    best = {}
    for source in set(range(len(tokens))) - set(destinations) - set(protected):
        alike = {d: cosine(tokens[source], tokens[d]) for d in free}
        top = max(alike.values(), default=0)
        best[source] = (top, {d for d in free if alike[d] == top})
    ranked = sorted(best, key=lambda source: (-best[source][0], source))
    return {source: best[source][1] for source in ranked[:merged]}


def slow_laplacian(x, height, width, padding="zeros"):
    """Sum of the four neighbours minus four times the pixel, of x (B, N, C)."""
    image = x.double().numpy().reshape(len(x), height, width, -1)
    mode = {"zeros": "constant", "replicate": "edge"}[padding]
    image = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode)
    near = image[:, :-2, 1:-1] + image[:, 2:, 1:-1] + image[:, 1:-1, :-2] + image[:, 1:-1, 2:]
    return torch.from_numpy(near - 4 * image[:, 1:-1, 1:-1]).flatten(1, 2)


def slow_scores(metric, height, width):
    """Mean absolute Laplacian with zeros outside, of one sample (N, C)."""
    return slow_laplacian(metric[None], height, width)[0].abs().mean(-1).tolist()


def slow_choice(scores, count, choice):
    """Tokens of the whole image by score, in raster order."""
    ascending = sorted(range(len(scores)), key=lambda n: scores[n])
    if choice == "uniform":
        return sorted(ascending[i * (len(scores) - 1) // (count - 1)] for i in range(count))
    first = {"low": 0, "high": len(scores) - count, "medium": (len(scores) - count) // 2}[choice]
    return sorted(ascending[first : first + count])


def cell_members(height, width, cell=2):
    """Tokens of each whole cell in raster order, cells in raster order."""
    return [
        [(top + dy) * width + left + dx for dy in range(cell) for dx in range(cell)]
        for top in range(0, height - cell + 1, cell)
        for left in range(0, width - cell + 1, cell)
    ]


def slow_lowest(row, height, width, cell=2):
    """The token of the lowest score of each whole cell, the first of equal ones."""
    return [min(tokens, key=row.__getitem__) for tokens in cell_members(height, width, cell)]


def slow_published(row, height, width, cell=2):
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


def pooled_windows(height, width, factor):
    """(tokens of each window of the pooled grid, its nearest token); remainders are dropped."""
    h, w = max(1, height // factor), max(1, width // factor)
    rows, columns = height // h, width // w
    for i, j in product(range(h), range(w)):
        near = floor((i + Fraction(1, 2)) * height / h), floor((j + Fraction(1, 2)) * width / w)
        window = product(range(i * rows, (i + 1) * rows), range(j * columns, (j + 1) * columns))
        yield [y * width + x for y, x in window], near[0] * width + near[1]


def slow_choice_in_cells(scores, height, width, factor, choice):
    """One token of each window of the pooled grid, remainders dropped; the first of equal ones."""
    pick = {"high": max, "low": min, "median": statistics.median_low}[choice]
    return [
        next(n for n in cell if scores[n] == pick([scores[m] for m in cell]))
        for cell, _ in pooled_windows(height, width, factor)
    ]


def merged_group(group, mode):
    """What a group (n, C), its target first, becomes."""
    group = group.double()
    mean = group.mean(0)
    if mode == "mlerp":
        return mean / mean.norm() * group.norm(dim=1).max()
    return group[0] if mode == "prune" else mean

"""Several prompts may stand for one class."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence


def class_numbers(classes: Sequence[str]) -> list[int]:
    """The number of each class, counted in the order in which they first appear."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(classes))}
    return [numbers[name] for name in classes]


def first_of_each(order: Iterable[int], classes: Sequence[Hashable]) -> list[int]:
    """The first prompt of every class in an order of prompts; `classes` has one per prompt."""
    firsts: dict[Hashable, int] = {}
    for prompt in order:
        firsts.setdefault(classes[prompt], prompt)
    return list(firsts.values())


def first_of_each_first(order: Sequence[int], classes: Sequence[Hashable]) -> list[int]:
    """The best prompt of every class and then the others, both in their order (best first)."""
    firsts = first_of_each(order, classes)
    known = set(firsts)
    return firsts + [prompt for prompt in order if prompt not in known]

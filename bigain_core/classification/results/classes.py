"""Several prompts for one class: the best of them counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..trials.prompt_classes import class_numbers, first_of_each
from .ranking import Classification, Ranking


def by_class(result: Classification, classes: Sequence[str]) -> Classification:
    """The result with one row per class, that of its best prompt; `classes` has one per prompt.

    Classes come in the order in which they first appear. Numbers of evaluations are those of the
    prompts that are left; the result of all prompts knows how many there were.
    """
    if tuple(classes) == result.labels:
        return result
    numbers = class_numbers(classes)
    names = tuple(dict.fromkeys(classes))
    rankings = tuple(_by_class(ranking, numbers) for ranking in result.rankings)
    return replace(result, labels=names, rankings=rankings)


def _by_class(ranking: Ranking, numbers: Sequence[int]) -> Ranking:
    rows = sorted(first_of_each(ranking.order, numbers), key=lambda prompt: numbers[prompt])
    screening = ranking.screening and _by_class(ranking.screening, numbers)
    return replace(
        ranking,
        table=replace(ranking.table, errors=ranking.table.errors[rows]),
        stage=ranking.stage[rows],
        provenance=replace(ranking.provenance, screening=screening),
    )

"""A classification as CSV."""

from __future__ import annotations

from collections.abc import Iterator

from ...text import csv_table
from .posterior import has_posterior, posterior
from .ranking import Classification, Ranking

COLUMNS = (
    "image", "rank", "label", "mean_error", "trials", "stages_survived", "behind_best",
    "standard_error", "better_with_probability", "posterior_bits",
)  # fmt: skip


def result_table(result: Classification, temperature: float = 1.0, limit: int | None = None) -> str:
    """One row per image and prompt, best first; the `limit` best of each image.

    temperature: of the posteriors.
    """
    rows = (
        [image, rank, result.labels[prompt], *cells]
        for image, ranking in enumerate(result.rankings)
        for rank, (prompt, *cells) in enumerate(_rows(ranking, temperature, limit), 1)
    )
    return csv_table(COLUMNS, rows)


def _rows(ranking: Ranking, temperature: float, limit: int | None) -> Iterator[list]:
    """Prompt and cells after the label, best first."""
    table = ranking.table
    means, trials, stages = (v.tolist() for v in (table.mean_errors, table.trials, ranking.stage))
    bits = posterior(table, temperature).tolist() if has_posterior(table) else None
    best, *others = ranking.order[:limit]
    leads = [["0", "0", ""]] + [
        [f"{value:.4g}" for value in (lead.margin, lead.standard_error, lead.worse)]
        for lead in ranking.leads(best, others)
    ]
    for k, lead in zip([best, *others], leads, strict=True):
        shown = f"{bits[k]:.4g}" if bits and trials[k] else ""
        yield [k, f"{means[k]:.7g}", trials[k], stages[k], *lead, shown]

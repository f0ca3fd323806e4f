"""A classification in words."""

from __future__ import annotations

from collections.abc import Sequence

from .ranking import Classification, Ranking

SHOWN_PROBABILITIES = 3


def summary(
    result: Classification,
    every: Classification,
    temperature: float,
    warnings: Sequence[str] = (),
) -> str:
    """Some lines for each image and the warnings of all; others may be given.

    Where classes have several prompts, `result` has one row per class, `every` one per prompt.
    """
    paragraphs = [
        "\n".join(_lines(result, number, every.rankings[number], temperature))
        for number in range(len(result.rankings))
    ]
    warnings = [f"Warning: {text}" for text in (*result.warnings, *warnings)]
    return "\n\n".join(paragraphs + ["\n".join(warnings)] * bool(warnings))


def _lines(result: Classification, number: int, every: Ranking, temperature: float):
    ranking, labels = result.rankings[number], result.labels
    lead = ranking.best_lead
    yield f"Image {number}: {labels[ranking.best]}"
    if lead is not None:
        yield (
            f"ahead of {labels[ranking.order[1]]} by {lead.margin:.4g} "
            f"(standard error {lead.standard_error:.2g}), won {ranking.won:.0%} of the trials"
        )
        yield (
            f"confidence that more trials would not change it: {ranking.confidence:.1%}; "
            f"Cantelli bound of an error: {lead.cantelli:.1%}; r = {lead.noise_ratio:.3g}"
        )
        if ranking.has_posterior:
            yield _posterior(ranking, labels, temperature)
    yield f"{every.spent:.6g} network evaluations, {max(every.saved, 0):.6g} saved"


def _posterior(ranking: Ranking, labels: tuple[str, ...], temperature: float) -> str:
    bits = ranking.posterior(temperature).tolist()
    order = sorted(range(len(bits)), key=lambda k: -bits[k])[:SHOWN_PROBABILITIES]
    shown = ", ".join(f"{labels[k]} {2 ** bits[k]:.3g} ({bits[k]:.3g} bits)" for k in order)
    return f"likelihood of the model at temperature {temperature:g}: {shown}"

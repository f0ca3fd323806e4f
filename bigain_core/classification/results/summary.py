"""A classification in words."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from .posterior import has_posterior, posterior
from .ranking import Classification, Ranking

SHOWN_PROBABILITIES = 3
SURE = 2.0  # standard errors
SAME_WINNER = 4  # images from which on it is odd that one prompt wins them all


def summary(
    result: Classification,
    every: Classification,
    temperature: float,
    others: Sequence[str] = (),
) -> str:
    """Some lines for each image and the warnings of all, `others` among them.

    Where classes have several prompts, `result` has one row per class, `every` one per prompt.
    """
    paragraphs = [
        "\n".join(_lines(result, number, every.rankings[number], temperature))
        for number in range(len(result.rankings))
    ]
    lines = [f"Warning: {text}" for text in (*warnings(result), *others)]
    return "\n\n".join(paragraphs + ["\n".join(lines)] * bool(lines))


def warnings(result: Classification) -> list[str]:
    """What to know before a result is relied on; the number of an image comes first if several."""
    several = len(result.rankings) > 1
    found = [
        f"Image {number}: {text}" if several else text
        for number, ranking in enumerate(result.rankings)
        if (text := _warning(ranking, result.labels))
    ]
    winners = set(result.best)
    if len(result.rankings) >= SAME_WINNER and len(result.labels) > 1 and len(winners) == 1:
        found.append(
            f"{result.labels[winners.pop()]} wins for all {len(result.rankings)} images. If they "
            "do not all show it, the model prefers this prompt whatever the image."
        )
    if len(result.labels) == 1:
        found.append(f"{result.labels[0]} is the only label, so it wins whatever an image shows.")
    return found


def _warning(ranking: Ranking, labels: Sequence[str]) -> str:
    lead = ranking.best_lead
    if ranking.fits_none:
        return (
            f"perhaps none of these: {labels[ranking.best]} describes the image hardly better than "
            "no prompt at all."
        )
    if lead is not None and not lead.margin >= SURE * lead.standard_error:
        first, second = (labels[k] for k in ranking.order[:2])
        return (
            f"{first} leads {second} by less than two standard errors; "
            "more trials may change the winner."
        )
    return ""


def _lines(result: Classification, number: int, every: Ranking, temperature: float):
    ranking, labels = result.rankings[number], result.labels
    lead = ranking.best_lead
    yield f"Image {number}: {labels[ranking.best]}"
    if lead is not None:
        yield (
            f"ahead of {labels[ranking.order[1]]} by {lead.margin:.4g} "
            f"(standard error {lead.standard_error:.2g}), won "
            f"{ranking.table.won(ranking.best):.0%} of the trials"
        )
        yield (
            f"confidence that more trials would not change it: {ranking.confidence:.1%}; "
            f"Cantelli bound of an error: {lead.cantelli:.1%}; r = {lead.noise_ratio:.3g}"
        )
        if has_posterior(ranking.table):
            yield _posterior(ranking, labels, temperature)
    if (over := ranking.over_no_prompt) is not None:
        bits = "" if isnan(over.bits) else f", evidence of {over.bits:.3g} bits"
        yield (
            f"{labels[ranking.best]} is ahead of no prompt by {over.margin:.4g} (standard error "
            f"{over.standard_error:.2g}){bits}; probability that it fits at all: "
            f"{over.fits:.1%}"
        )
    yield f"{every.spent:.6g} network evaluations, {max(every.saved, 0):.6g} saved"


def _posterior(ranking: Ranking, labels: tuple[str, ...], temperature: float) -> str:
    bits = posterior(ranking.table, temperature).tolist()
    order = sorted(range(len(bits)), key=lambda k: -bits[k])[:SHOWN_PROBABILITIES]
    shown = ", ".join(f"{labels[k]} {2 ** bits[k]:.3g} ({bits[k]:.3g} bits)" for k in order)
    return f"likelihood of the model at temperature {temperature:g}: {shown}"

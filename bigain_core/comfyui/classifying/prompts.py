"""Prompts as the host encodes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comfy.utils import ProgressBar

from ...classification import check_labels

PARTIAL = {"area", "mask", "hooks", "start_percent", "end_percent", "clip_start_percent"}


@dataclass(frozen=True)
class Prompts:
    """Labels to rank, with one conditioning (in the host's format) each.

    `classes` are what the labels stand for, where several stand for the same; otherwise the labels
    themselves.
    """

    labels: tuple[str, ...]
    conditionings: tuple[list, ...]
    classes: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.classes:
            object.__setattr__(self, "classes", self.labels)


def encode_prompts(
    clip, labels: Sequence[str], template: str, classes: Sequence[str] = ()
) -> Prompts:
    """Each label in place of {} in the template, read as plain text: "(" is no prompt weight.

    classes: what the labels stand for, where several stand for the same.

    Raises ValueError for empty or duplicate labels, a template without {} or no CLIP.
    """
    check_labels(labels)
    if clip is None:
        raise ValueError(
            "BiGain: expected a CLIP to encode the prompts, got none. The checkpoint may have no "
            "text encoder; load one and connect it. A DiT takes its prompts from BiGain DiT Labels."
        )
    if "{}" not in template:
        raise ValueError(
            f"BiGain: expected a template with {{}} where the label goes, got {template!r}. "
            "For example: a photo of a {}"
        )
    bar, encoded = ProgressBar(len(labels)), []
    for label in labels:
        tokens = clip.tokenize(template.replace("{}", label), disable_weights=True)
        encoded.append(clip.encode_from_tokens_scheduled(tokens))
        bar.update(1)
    return Prompts(tuple(labels), tuple(encoded), tuple(classes))


def check_prompts(prompts: Prompts) -> None:
    """Raise ValueError unless all are different and act on the whole image at every timestep."""
    check_labels(prompts.labels)
    for label, conditioning in zip(prompts.labels, prompts.conditionings, strict=True):
        if not conditioning:
            raise ValueError(
                f"BiGain: expected a conditioning for {label!r}, got an empty list. Connect an "
                "encoded text."
            )
        limits = sorted({key for _, extra in conditioning for key in PARTIAL & extra.keys()})
        if limits or len(conditioning) != 1:
            raise ValueError(
                "BiGain: expected prompts that act on the whole image at every timestep, got "
                f"{label!r} in {len(conditioning)} parts limited by {limits or 'scheduling'}. Use "
                "a plain CLIP."
            )

"""Prompts as the host encodes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar

from ...classification import check_labels

PARTIAL = {"area", "mask", "hooks", "start_percent", "end_percent", "clip_start_percent"}


@dataclass(frozen=True)
class Prompts:
    """Labels to rank, with one conditioning (in the host's format) each.

    `classes` are what the labels stand for, where several stand for the same; otherwise the labels
    themselves. `empty` is the conditioning of no prompt at all, where it is known.
    """

    labels: tuple[str, ...]
    conditionings: tuple[list, ...]
    classes: tuple[str, ...] = ()
    empty: list | None = None

    def __post_init__(self):
        if not self.classes:
            object.__setattr__(self, "classes", self.labels)

    @property
    def encoded(self) -> tuple[list, ...]:
        """All conditionings, the empty one last if there is one."""
        return self.conditionings + (() if self.empty is None else (self.empty,))


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
    texts = [*(template.replace("{}", label) for label in labels), ""]
    bar, encoded = ProgressBar(len(texts)), []
    for text in texts:
        throw_exception_if_processing_interrupted()
        tokens = clip.tokenize(text, disable_weights=True)
        encoded.append(clip.encode_from_tokens_scheduled(tokens))
        bar.update(1)
    *conditionings, empty = encoded
    return Prompts(tuple(labels), tuple(conditionings), tuple(classes), empty)


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

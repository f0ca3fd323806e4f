"""The likelihood of each prompt under the model."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from .trial_table import TrialTable


def has_posterior(table: TrialTable) -> bool:
    """Whether the errors are squared ones, which add up to a likelihood."""
    return table.nats is not None and bool(torch.isfinite(table.nats).all())


def posterior(table: TrialTable, temperature: float = 1.0) -> Tensor:
    """(P,) log2 of the probability of each prompt: -1 is one bit less than certain.

    The model's likelihood ratio in nats (I-MMSE), times `temperature`. Networks are overconfident:
    temperatures below 1 answer that.
    """
    if not has_posterior(table):
        raise ValueError(
            "BiGain: expected errors with loss l2 for a posterior, got another loss. Only "
            "squared errors add up to a likelihood."
        )
    nats = -temperature * table.centred(table.errors * table.nats)
    return nats.nan_to_num(-torch.inf).log_softmax(0) / log(2)

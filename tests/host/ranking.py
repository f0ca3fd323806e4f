"""Prompts and latents to rank, of the cases of the families."""

import torch
from bigain.bigain_core.classification import PublishedGrid, Ranking, TrialSpec, TrialTable
from bigain.bigain_core.comfyui.classifying.prompts import Prompts
from bigain.bigain_core.listener import Listener

SIZES = {"pixart_alpha": (40, 48)}


class Calls(Listener):
    """Keeps what it hears."""

    def __init__(self):
        self.counts = []

    def on_calls(self, calls):
        self.counts.append(calls)


def ranking(errors):
    """Of errors (P, n), evenly weighted, with every prompt to the end."""
    specs = tuple(TrialSpec(number, number) for number in range(errors.shape[1]))
    return Ranking(TrialTable(errors, specs, PublishedGrid()), torch.ones(len(errors)))


def some_prompts(case, count=3, make=None):
    labels = tuple(f"label {number}" for number in range(count))
    return Prompts(labels, tuple((make or case.conditioning)(k) for k in range(count)))


def some_latents(case, batch=2):
    return case.noise(SIZES.get(case.name, (8, 12)), batch)

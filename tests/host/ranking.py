"""Prompts and latents to rank, of the cases of the families."""

from bigain.bigain_core.comfyui.classifying.prompts import Prompts

SIZES = {"pixart_alpha": (40, 48)}


def silent(calls):
    pass


def some_prompts(case, count=3, make=None):
    labels = tuple(f"label {number}" for number in range(count))
    return Prompts(labels, tuple((make or case.conditioning)(k) for k in range(count)))


def some_latents(case, batch=2):
    return case.noise(SIZES.get(case.name, (8, 12)), batch)

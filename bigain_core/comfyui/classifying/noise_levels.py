"""The host's noise levels as those of the classifier."""

from __future__ import annotations

import comfy.model_base
import comfy.model_sampling as host
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...classification import NoiseSchedule
from ...classification.trials.noise import TIMESTEPS

PREDICTS = {  # what the network gives, by the host's class that turns it into a clean latent
    host.EPS: "eps",
    host.V_PREDICTION: "v",
    host.EDM: "v",
    host.X0: "x0",
    host.CONST: "flow",
    host.COSMOS_RFLOW: "flow",
}
CONVERSIONS = ("calculate_denoised", "calculate_input", "noise_scaling")


def host_levels(model: ModelPatcher) -> tuple[Tensor, NoiseSchedule]:
    """The 1000 noise levels among which trials are chosen, and what the host calls them.

    The latter are sigmas (1000,), fp32, and come first.
    Those of training where the host knows them; for a flow evenly spaced between image and noise,
    whatever its shift; elsewhere even on the axis on which the host counts percents.

    Raises ValueError for a model whose error says nothing about its prompt.
    """
    sampling = model.get_model_object("model_sampling")
    kind = _kind(sampling)
    if kind not in PREDICTS or isinstance(model.model, comfy.model_base.StableCascade_B):
        raise ValueError(
            "BiGain: expected a model that predicts noise, velocity, a flow or the clean image, "
            f"got {type(model.model).__name__} with {kind.__name__} sampling, under which no noise "
            "is added that the prompt could explain. Load a plain text-to-image model, without a "
            "sampling patch of a distilled one."
        )
    if PREDICTS[kind] == "flow":
        schedule = NoiseSchedule.straight()
        if kind is host.COSMOS_RFLOW:  # counts noise per unit of image
            return (schedule.noise / schedule.signal).float(), schedule
        return schedule.noise.float(), schedule
    sigmas = _sigmas(sampling)
    return sigmas, NoiseSchedule.exploding(sigmas, PREDICTS[kind], float(sampling.sigma_data))


def _kind(sampling) -> type:
    """The class that says how noise is added and taken away."""
    found = (kind for kind in type(sampling).__mro__ if vars(kind).keys() & set(CONVERSIONS))
    return next(found, type(sampling))


def _sigmas(sampling) -> Tensor:
    discrete = isinstance(sampling, host.ModelSamplingDiscrete)
    if discrete and not isinstance(sampling, host.StableCascadeSampling):
        return sampling.sigma(torch.arange(TIMESTEPS)).float().cpu()
    percents = 1 - (torch.arange(TIMESTEPS, dtype=torch.float64) + 0.5) / TIMESTEPS
    return torch.tensor([float(sampling.percent_to_sigma(p)) for p in percents.tolist()])

"""Zero-shot classification: rank prompts by how well a model predicts the noise under each."""

from .classifier import Denoiser, check_labels, classify
from .metrics import wilson_interval
from .noise import alphas_cumprod, trial_noise
from .ranking import Classification, Ranking
from .trials import TrialPlan, trial_timesteps

__all__ = [
    "Classification",
    "Denoiser",
    "Ranking",
    "TrialPlan",
    "alphas_cumprod",
    "check_labels",
    "classify",
    "trial_noise",
    "trial_timesteps",
    "wilson_interval",
]

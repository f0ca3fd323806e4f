"""Zero-shot classification: rank prompts by how well a model denoises an image under each."""

from .classifier import Screening, check_labels, classify
from .compression_effect import NoiseChange, noise_change
from .designs import (
    AdaptiveTimes,
    Blocks,
    Draw,
    MirroredPairs,
    PublishedGrid,
    SpreadGrid,
    UniformTimes,
)
from .errors import Denoiser, ErrorSource, Trial
from .evidence import band_differences, evidence_map
from .levels import NoiseLevel, NoiseSchedule
from .metrics import average_precision, mcnemar, wilson_interval
from .noise import alphas_cumprod, trial_noise
from .plan import PLANS, Budget, TrialPlan
from .ranking import Classification, Lead, Ranking
from .rules import Certified, Sequential, Staged
from .standing import Standing
from .trials import trial_timesteps
from .weighting import WEIGHTINGS, Curve

__all__ = [
    "PLANS",
    "WEIGHTINGS",
    "AdaptiveTimes",
    "Blocks",
    "Budget",
    "Certified",
    "Classification",
    "Curve",
    "Denoiser",
    "Draw",
    "ErrorSource",
    "Lead",
    "MirroredPairs",
    "NoiseChange",
    "NoiseLevel",
    "NoiseSchedule",
    "PublishedGrid",
    "Ranking",
    "Screening",
    "Sequential",
    "SpreadGrid",
    "Staged",
    "Standing",
    "Trial",
    "TrialPlan",
    "UniformTimes",
    "alphas_cumprod",
    "average_precision",
    "band_differences",
    "check_labels",
    "classify",
    "evidence_map",
    "mcnemar",
    "noise_change",
    "trial_noise",
    "trial_timesteps",
    "wilson_interval",
]

"""Zero-shot classification: rank prompts by how well a model denoises an image under each."""

from .classifier import Screening, check_labels, classify
from .datasets.metrics import average_precision, mcnemar, wilson_interval
from .elimination.elimination_rules import Certified, Sequential, Staged
from .elimination.snapshot import Snapshot
from .elimination.trial_plan import PLANS, Budget, TrialPlan
from .errors import Denoiser, ErrorSource, Trial
from .evidence.evidence import evidence_map
from .results.ranking import Classification, Lead, Ranking
from .trials.levels import NoiseLevel, NoiseSchedule
from .trials.noise import alphas_cumprod, trial_noise
from .trials.samplers import (
    AdaptiveTimes,
    Blocks,
    PublishedGrid,
    SpreadGrid,
    TrialSpec,
    UniformTimes,
)
from .trials.timesteps import trial_timesteps
from .trials.weighting import WEIGHTINGS, Curve

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
    "TrialSpec",
    "ErrorSource",
    "Lead",
    "NoiseLevel",
    "NoiseSchedule",
    "PublishedGrid",
    "Ranking",
    "Screening",
    "Sequential",
    "SpreadGrid",
    "Staged",
    "Snapshot",
    "Trial",
    "TrialPlan",
    "UniformTimes",
    "alphas_cumprod",
    "average_precision",
    "check_labels",
    "classify",
    "evidence_map",
    "mcnemar",
    "trial_noise",
    "trial_timesteps",
    "wilson_interval",
]

"""Zero-shot classification: rank prompts by how well a model denoises an image under each."""

from .classifier import Screening, check_labels, classify
from .datasets.metrics import average_precision, mcnemar, wilson_interval
from .elimination.elimination_rules import Certified, Sequential, Staged
from .elimination.trial_plan import PLANS, Budget, TrialPlan
from .errors import Denoiser, ErrorSource, Trial
from .evidence.evidence import evidence_map
from .results.ranking import Classification, Provenance, Ranking
from .results.snapshot import Snapshot
from .results.trial_table import Lead, TrialTable
from .trials.levels import NoiseLevel, NoiseSchedule
from .trials.noise import trial_noise
from .trials.samplers import (
    AdaptiveTimes,
    Blocks,
    PublishedGrid,
    SpreadGrid,
    TrialSpec,
    UniformTimes,
)
from .trials.timesteps import trial_timesteps
from .trials.weighting import WEIGHTINGS

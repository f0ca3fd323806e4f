"""By how much a prompt is worse than another, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..trials.samplers import TrialSampler, TrialSpec
from .student_t import student_tail

PRIOR_DOF = 8
CROWD = 8  # differences from which on their scatter can be told


@dataclass(frozen=True, eq=False)
class Differences:
    """Mean errors (P,) less those of a leader over the same trials, and their variances (P,).

    `dof` is how many degrees of freedom the variances have. Unknown variances are infinite.
    """

    mean: Tensor
    variance: Tensor
    dof: int

    def tail(self) -> Tensor:
        """(P,) probability that the true difference is below 0, as far as one can tell."""
        t = self.mean / self.variance.sqrt()
        t = torch.where(self.mean == 0, 0.0, t)  # 0 / 0: as likely better as worse
        return student_tail(t, self.dof)


def paired_differences(
    errors: Tensor, specs: Sequence[TrialSpec], leader: int, sampler: TrialSampler
) -> Differences:
    """How errors (P, n) compare with those of `leader`.

    The few trials of one prompt say little about its variance, but all prompts share one scale of
    noise: each variance is moderated by the median of all as if that rested on PRIOR_DOF trials.
    """
    differences = errors - errors[leader]
    mean = sampler.score(differences, specs)
    units = sampler.units(specs)
    if units < 2 or len(errors) < 2:
        return Differences(mean, torch.full_like(mean, torch.inf), PRIOR_DOF)
    variance = sampler.variance(differences, specs)
    others = torch.arange(len(errors)) != leader
    prior = variance[others].median()
    own = units - 1
    moderated = (PRIOR_DOF * prior + own * variance) / (PRIOR_DOF + own)
    moderated[leader] = 0.0
    return Differences(mean, moderated, own + PRIOR_DOF)


def shrunken_tail(found: Differences, leader: int, share: float) -> Tensor:
    """(P,) as `found.tail()`, every prompt judged as one of a crowd (empirical Bayes).

    A difference has the noise of two prompts. Half of it is the other prompt's and no more than all
    differences scatter; the rest of that scatter is one of true differences. Each is drawn to their
    mean, the noisier the more: of forty prompts a few look good after few trials by luck alone. The
    leader's half is in all differences alike. These trials are but a `share` of those that the
    leader had in the end, which bore it out, and so much of its noise is left.

    With fewer than eight others nothing changes.
    """
    others = torch.arange(len(found.mean)) != leader
    means = found.mean[others]
    if len(means) < CROWD or found.variance.isinf().any():
        return found.tail()
    scatter = means.var()
    noise = torch.minimum(found.variance[others].mean() / 2, scatter)
    trust = 1 - noise / scatter.clamp(min=torch.finfo(means.dtype).tiny)
    drawn = means.mean() + trust * (found.mean - means.mean())
    variance = (trust + share) * noise
    return Differences(drawn, variance.expand_as(drawn), found.dof + len(means)).tail()

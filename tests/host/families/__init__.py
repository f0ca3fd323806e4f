"""Every image model family of the host, small and random, with its conditioning.

The models are of the host's own classes and are made by the host's own configurations, so that
conditioning goes through the real `extra_conds`. A family that a host does not have is told by the
configuration that the host lacks.
"""

import pytest

from .joint import JOINT
from .refined import REFINED
from .self_attention import SELF_ATTENTION
from .streams import STREAMING
from .unets import UNETS
from .wan import WAN_KINDS
from .with_sound import WITH_SOUND

CASES = (*UNETS, *SELF_ATTENTION, *STREAMING, *REFINED, *JOINT, *WAN_KINDS, *WITH_SOUND)
NAMED = {case.name: case for case in CASES}
NO_SUCH_MODEL = "this ComfyUI has no such model"  # why tests of a missing case are skipped


def parametrized(names, values):
    """`values` maps the id of a test to its arguments, the case first."""
    params = [
        pytest.param(*args, marks=pytest.mark.skipif(args[0].missing, reason=NO_SUCH_MODEL), id=key)
        for key, args in values.items()
    ]
    return pytest.mark.parametrize(names, params)


def for_cases(cases):
    return parametrized("case", {case.name: (case,) for case in cases})


def for_cases_and_sizes(cases):
    values = {f"{case.name}-{h}x{w}": (case, (h, w)) for case in cases for h, w in case.sizes}
    return parametrized("case, size", values)

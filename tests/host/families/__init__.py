"""Every image model family of the host, small and random, with its conditioning.

The models are of the host's own classes and are made by the host's own configurations, so that
conditioning goes through the real `extra_conds`. A family that a host does not have is told by the
classes that the host lacks.
"""

import pytest

from .joint import JOINT
from .refined import REFINED
from .self_attention import SELF_ATTENTION
from .streams import STREAMING
from .unets import UNETS

CASES = (*UNETS, *SELF_ATTENTION, *STREAMING, *REFINED, *JOINT)
NAMED = {case.name: case for case in CASES}


def parametrized(names, values):
    """`values` maps the id of a test to its arguments, the case first."""
    skipped = {
        key: pytest.mark.skipif(bool(arguments[0].missing), reason=arguments[0].missing)
        for key, arguments in values.items()
    }
    return pytest.mark.parametrize(
        names, [pytest.param(*values[key], marks=skipped[key], id=key) for key in values]
    )


every_case = parametrized("case", {case.name: (case,) for case in CASES})
every_case_and_size = parametrized(
    "case, size",
    {f"{case.name}-{h}x{w}": (case, (h, w)) for case in CASES for h, w in case.sizes},
)

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
# A case of each way by which the pack finds the image, one beside references; with the hosts after
# the first dev.py runs no others.
ONE_OF_EACH_WAY = {
    "sd15", "sdxl", "dit", "pixart_sigma", "hunyuan_dit", "sd3", "flux_references", "auraflow",
    "lumina2", "qwen_image", "wan", "cosmos_predict2", "hidream", "ltxv", "hunyuan_video_padded",
    "omnigen2",
}  # fmt: skip
assert NAMED.keys() >= ONE_OF_EACH_WAY
NO_SUCH_MODEL = "this ComfyUI has no such model"  # why tests of a missing case are skipped


def parametrized(names, values):
    """`values` maps the id of a test to its arguments, the case first."""
    params = []
    for key, args in values.items():
        marks = [pytest.mark.skipif(args[0].missing, reason=NO_SUCH_MODEL)]
        marks += [pytest.mark.once] * (args[0].name not in ONE_OF_EACH_WAY)
        params.append(pytest.param(*args, marks=marks, id=key))
    return pytest.mark.parametrize(names, params)


def for_cases(cases):
    return parametrized("case", {case.name: (case,) for case in cases})


def for_cases_and_sizes(cases):
    values = {f"{case.name}-{h}x{w}": (case, (h, w)) for case in cases for h, w in case.sizes}
    return parametrized("case, size", values)

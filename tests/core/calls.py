"""Calls of a network, and what they plan at its layers, in the middle of denoising."""

from torch.utils.flop_counter import FlopCounterMode

from bigain_core.compression.network_call import NetworkCall
from bigain_core.compression.rules import Compression
from bigain_core.compression.run_log import RunLog
from bigain_core.measure.flops import input_shortened
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.plans import IdentityPlan

MIDDLE = DenoisingProgress(0.5)


def network_call(*rules, progress=0.5, log=None, layer_flops=input_shortened, **others):
    point, log = DenoisingProgress(progress), RunLog() if log is None else log
    return NetworkCall(Compression(rules), lambda: point, log, layer_flops, **others)


def counted(function):
    """FLOP of the matrix products and convolutions in a call, by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def planned(call, layer_id, x, grid):
    """The plan for a layer, which is logged; the identity where it runs as it is."""
    decision = call.visit(layer_id, x, grid)
    return decision.plan if decision else IdentityPlan(x.shape[1])

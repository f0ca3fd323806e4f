"""A device that is not there: tensors that say they lie on it, and compute on the CPU all the same.

It does what tests on a CPU cannot see. Like any device it refuses to mix its tensors with those of
the CPU, like Metal it has no 64-bit floats, and it notes what waits for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
COPIES = (aten._to_copy, aten.copy_)
READS = (  # values, or shapes that depend on them
    aten._local_scalar_dense,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten.repeat_interleave,
)
NOT_ON_METAL = {  # operators without a kernel there; torch itself tests the lower ones
    aten._embedding_bag: "before torch 2.10",
    aten._embedding_bag_forward_only: "before torch 2.10",
    aten._pdist_forward: "in any torch",
    aten.frexp: "in any torch",
    aten.heaviside: "in any torch",
    aten.lcm: "in any torch",
    aten.linalg_eig: "in any torch",
    aten._linalg_eigh: "in any torch",
    aten.matrix_exp: "in any torch",
    aten.mode: "in any torch",
    aten.put: "in any torch",
}
DOUBLE = (torch.float64, torch.complex128)


DEVICE = torch.device("meta")  # for any other torch looks for a driver


class OnDevice(Tensor):
    """`held` has the values, on the CPU."""

    @staticmethod
    def __new__(cls, held: Tensor):
        return Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=DEVICE
        )

    def __init__(self, held: Tensor):
        self.held = held

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} on a device outside of its block")


class StandIn(TorchDispatchMode):
    """Within, tensors can be made on DEVICE and moved to it.

    `waits` are what it was waited for, `doubles` the 64-bit floats where they are not refused. With
    `as_metal` it refuses the operators that Metal has no kernel for, too.
    """

    def __init__(self, refuses_doubles: bool = True, as_metal: bool = False):
        super().__init__()
        self.refuses_doubles = refuses_doubles
        self.as_metal = as_metal
        self.waits: list[str] = []
        self.doubles: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, operator = dict(kwargs or {}), function.overloadpacket
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        here = any(isinstance(tensor, OnDevice) for tensor in tensors)
        becomes = here if operator is not aten.copy_ else isinstance(args[0], OnDevice)
        if kwargs.get("device") is not None:
            becomes = kwargs["device"].type == DEVICE.type
            kwargs["device"] = torch.device("cpu") if becomes else kwargs["device"]
        elsewhere = [t for t in tensors if not isinstance(t, OnDevice)]
        if any(tensor.device == DEVICE for tensor in elsewhere):
            raise AssertionError(f"{function} of a tensor made from a list, which waits")
        if here and self.as_metal and operator in NOT_ON_METAL:
            raise NotImplementedError(
                f"Metal has no kernel for {function} {NOT_ON_METAL[operator]}"
            )
        if operator in COPIES:
            if any(isinstance(tensor, OnDevice) != becomes for tensor in tensors):
                self.waits.append(f"{function} {'to' if becomes else 'from'} {DEVICE}")
        elif here and any(tensor.ndim for tensor in elsewhere):
            raise AssertionError(f"{function} of tensors on {DEVICE} and on the CPU")
        elif here and (operator in READS or _indexed_by_mask(operator, args)):
            self.waits.append(str(function))
        plain = tree_map_only(OnDevice, lambda tensor: tensor.held, (args, kwargs))
        out = function(*plain[0], **plain[1])
        if not becomes:
            return out
        if function._schema.is_mutable:
            return kwargs.get("out", args[0])
        if any(isinstance(one, Tensor) and one.dtype in DOUBLE for one in tree_leaves(out)):
            self.doubles.append(str(function))
            if self.refuses_doubles:
                raise TypeError(f"{function} gives 64-bit floats, which Metal does not have")
        return tree_map_only(Tensor, OnDevice, out)


def moved(module: nn.Module) -> nn.Module:
    """The module itself, on DEVICE."""
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            part._parameters[name] = nn.Parameter(weight.detach().to(DEVICE), requires_grad=False)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = buffer.to(DEVICE)
    return module


def _indexed_by_mask(operator, args) -> bool:
    by = args[1] if operator in (aten.index, aten.index_put, aten.index_put_) else ()
    return any(index is not None and index.dtype == torch.bool for index in by)

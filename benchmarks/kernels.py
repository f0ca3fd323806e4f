"""Kernels and memory that a method adds to one layer: python -m benchmarks.kernels

Counted on a CUDA device that need not be there: tensors are fake, they have shapes and no values.
One operator of ATen that makes or fills a tensor counts as one kernel. Some are several on a real
device (a sort of long rows), which `python -m benchmarks.gpu` sees.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.demo_report import table
from benchmarks.speed_blocks import METHODS
from bigain_core.methods import Method
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.parts import plan_in_parts
from bigain_core.tokens.plans import MergePlan, key_mask
from bigain_core.tokens.sequence import JointPlan

FREE = ("view", "empty", "prim::", "device")  # in the names of operators without a kernel


class CountedKernels(TorchDispatchMode):
    """Counts operators that are not views."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        free = operator.is_view or any(part in operator.name() for part in FREE)
        self.count += not free
        return operator(*args, **(kwargs or {}))


@dataclass(eq=False)
class LiveMemory(TorchDispatchMode):
    """Bytes of the tensors made meanwhile that are alive together, now and at the most."""

    live: int = 0
    peak: int = 0
    known: set[int] = field(default_factory=set)

    def __post_init__(self):
        super().__init__()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        made = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


@dataclass(frozen=True)
class Shape:
    """A layer: where its tokens are, how they are merged or pooled, and in which precision."""

    grid: TokenGrid
    width: int
    batch: int
    dtype: torch.dtype
    steps: Callable[[Method, TokenGrid, Tensor], object]


def in_unet(method: Method, grid: TokenGrid, x: Tensor) -> Tensor:
    """Hidden states before projection."""
    plan = plan_in_parts(method, x, grid, DenoisingProgress(0.5), 0)
    queries = plan.queries(x)
    context = queries if isinstance(plan, MergePlan) else plan.context(x)
    key_mask(plan, x.dtype)
    return plan.restore(queries) + context[:, :1]


def in_dit(method: Method, grid: TokenGrid, x: Tensor) -> Tensor:
    """Merged before projection, pooled after it, keys and values apart."""
    plan = plan_in_parts(method, x, grid, DenoisingProgress(0.5), 0)
    key_mask(plan, x.dtype)
    if isinstance(plan, MergePlan):
        return plan.restore(plan.queries(x))
    return plan.context(x) + plan.context(x)


def in_joint_attention(method: Method, grid: TokenGrid, x: Tensor) -> Tensor:
    """Queries, keys and values with text among them and with rotary positions."""
    plan = plan_in_parts(method, grid.image(x), grid.frame, DenoisingProgress(0.5), 0)
    joint = JointPlan(grid, plan, plan.unblended(), getattr(method, "proportional", False))
    queries, keys, values = joint.queries(x), joint.keys(x), joint.values(x)
    joint.key_bias(keys, x.dtype)
    return joint.restore(queries) + values[:, :1]


UNET = "UNet (SD 1.5, 512 px)"
JOINT = "joint attention (Flux, 1024 px)"
SHAPES = {
    UNET: Shape(TokenGrid(64, 64), 320, 2, torch.float16, in_unet),
    JOINT: Shape(TokenGrid(64, 64, prefix=512), 3072, 1, torch.bfloat16, in_joint_attention),
    "joint attention (SD3.5, 1024 px)": Shape(
        TokenGrid(64, 64, suffix=333), 2432, 2, torch.float16, in_joint_attention
    ),
    "DiT (XL/2, 512 px)": Shape(TokenGrid(32, 32), 1152, 2, torch.float16, in_dit),
}


def kernels(method: Method, shape: Shape) -> int:
    """Those that the method adds to a layer, beside attention itself."""
    size = (shape.batch, shape.grid.sequence_tokens, shape.width)
    # In inference mode operators made of others would count as one.
    with FakeTensorMode(), torch.inference_mode(False), torch.no_grad():
        x = torch.empty(size, device="cuda", dtype=shape.dtype)
        with CountedKernels() as counted:
            shape.steps(method, shape.grid, x)
    return counted.count - 1  # the sum that keeps both results alive


def main() -> None:
    rows = [
        [name, *(f"{kernels(method, shape)}" for shape in SHAPES.values())]
        for name, method in METHODS.items()
    ]
    print(table(["kernels added to a layer", *SHAPES], rows))


if __name__ == "__main__":
    main()

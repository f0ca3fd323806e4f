"""One layer in which text and image attend to each other, as in Flux, plain and compressed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.speed_blocks import METHODS, OFF, Layer, Setting
from bigain_core.methods import Method
from bigain_core.schedules import DenoisingProgress
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.parts import plan_in_parts
from bigain_core.tokens.plans import Plan
from bigain_core.tokens.sequence import JointPlan


@dataclass(frozen=True, eq=False)
class JointLayer:
    """A layer whose input x (B, text + N, C) has the text in front of the image.

    Values decide, and queries and keys keep to positions that exist, as with rotary positions.
    """

    layer: Layer
    grid: TokenGrid

    @classmethod
    def random(
        cls, text: int, tokens: int, width: int, batch: int, where: torch.device, dtype
    ) -> JointLayer:
        image = Layer.random(tokens, width, batch, torch.device("cpu"), torch.float32)
        generator = torch.Generator().manual_seed(1)
        prompt = torch.randn(batch, text, width, generator=generator)
        weights = [weight.to(where, dtype) for weight in image.projections]
        x = torch.cat((prompt, image.x), dim=1).to(where, dtype)
        layer = Layer(x, image.norm.to(where, dtype), weights, image.heads)
        return cls(layer, TokenGrid(image.grid.height, image.grid.width, prefix=text))

    def plan(self, method: Method, values: Tensor | None = None) -> Plan:
        if values is None:
            values = functional.linear(self.layer.norm(self.layer.x), self.layer.projections[2])
        image, frame = self.grid.image(values), self.grid.frame
        return plan_in_parts(method, image, frame, DenoisingProgress(0.5), 0)

    def run(self, method: Method | None) -> Tensor:
        """(B, text + N, C)"""

        def by_heads(x: Tensor) -> Tensor:
            return x.unflatten(2, (self.layer.heads, -1)).transpose(1, 2)

        *inputs, out = self.layer.projections
        normed = self.layer.norm(self.layer.x)
        q, k, v = (functional.linear(normed, weight) for weight in inputs)
        mask, joint = None, None
        if method is not None:
            plan = self.plan(method, v)
            joint = JointPlan(self.grid, plan, plan.unblended(), method.proportional)
            q, k, v = joint.queries(q), joint.keys(k), joint.values(v)
            bias = joint.key_bias(k, k.dtype)
            mask = None if bias is None else bias[:, None, None]
        y = functional.scaled_dot_product_attention(*map(by_heads, (q, k, v)), attn_mask=mask)
        y = y.transpose(1, 2).flatten(2)
        return functional.linear(y if joint is None else joint.restore(y), out)

    def settings(self) -> dict[str, Setting]:
        works = {OFF: None, **METHODS}
        return {name: Setting(lambda m=method: self.run(m)) for name, method in works.items()}

"""Images of what a method decided at one layer: scores, destinations, groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ..placement import LayerId
from ..tokens.centred_keys import CentredPlan
from ..tokens.grid import TokenGrid
from ..tokens.key_plans import KeyMergePlan, KeyPairPlan
from ..tokens.plans import MergePlan, Plan, PoolPlan, SelectPlan
from ..tokens.selection import split_windows
from .decisions import Decision

LEAST_SIDE = 8  # pixels of a token in an image
GREY = 0.6
FILL = 0.85  # opacity of a group's colour
HEAT = ((0.05, 0.03, 0.3), (0.75, 0.2, 0.4), (1.0, 0.9, 0.3))  # low, middle and high scores


@dataclass(frozen=True, eq=False)
class TokenMap:
    """What became of the N tokens of one image at one layer.

    stand_in (N,): the token whose key and value stand for each, its own index if it is kept, -1 if
    it is left out. `merges` says whether queries are shortened in the same way. scores (N,): the
    detail that decided, None where nothing like that did.
    """

    layer_id: LayerId
    method: str
    grid: TokenGrid
    stand_in: Tensor
    merges: bool
    scores: Tensor | None

    @property
    def shortened(self) -> Tensor:
        """(N,) bool: tokens that another one stands for, or none."""
        return self.stand_in != torch.arange(len(self.stand_in))

    @property
    def sizes(self) -> Tensor:
        """(N,) how many tokens each stands for, itself included."""
        tokens = len(self.stand_in)
        return torch.bincount(self.stand_in[self.stand_in >= 0], minlength=tokens)

    def __str__(self) -> str:
        tokens, sizes = self.grid.tokens, self.sizes
        left = int((sizes > 0).sum())
        what = "queries, keys and values" if self.merges else "keys and values"
        place = f"{self.layer_id.stage}, level {self.layer_id.level}"
        return (
            f"layer {self.layer_id.number} ({place}), {self.method}: {tokens} tokens -> {left} for "
            f"{what}; {int((sizes > 1).sum())} stand for others, the largest group has "
            f"{int(sizes.max())}, {int((self.stand_in < 0).sum())} are left out"
        )


def token_map(decision: Decision, deciding: Decision) -> TokenMap:
    """Of the first image; `deciding` is the decision whose assignment this layer took over.

    The first frame of a film shares keys with no other, see `frame_runs`.
    """
    grid, plan = decision.grid.frame, decision.plan
    if isinstance(plan, PoolPlan):
        plan = replace(plan, grid=grid)
    scores = deciding.rule.method.scores(deciding.metric[:, : grid.tokens], grid)
    return TokenMap(
        decision.layer_id,
        decision.rule.method.describe(grid),
        grid,
        stand_ins(plan, grid, len(decision.metric))[0, : grid.tokens].cpu(),
        isinstance(plan, MergePlan),
        None if scores is None else scores[0].float().cpu(),
    )


def stand_ins(plan: Plan, grid: TokenGrid, batch: int = 1) -> Tensor:
    """(B, N) the token whose key stands for each, -1 where there is none.

    Where windows are blended it is the token that nearest sampling takes or the one that was
    chosen.
    """
    if isinstance(plan, MergePlan | KeyMergePlan | KeyPairPlan | CentredPlan):
        return plan.target
    device = plan.chosen.device if isinstance(plan, SelectPlan) else next(iter(plan.places), None)
    index = torch.arange(grid.tokens, device=device)
    places = index.float()[None, :, None].expand(batch, -1, 1)
    kept = plan.unblended().context(places).squeeze(2).long()  # (B, K)
    found = torch.full((batch, grid.tokens), -1, device=index.device)
    pool = plan.average if isinstance(plan, SelectPlan) else plan
    if isinstance(pool, PoolPlan):
        members = split_windows(index[None], grid, pool.factor).expand(batch, -1, -1)
        owners = kept.unflatten(1, (members.shape[1], -1))  # in raster order, as members are
        size, draws = members.shape[2], owners.shape[2]
        owners = owners[..., torch.arange(size, device=index.device) * draws // size]
        found.scatter_(1, members.flatten(1), owners.flatten(1))
    return found.scatter_(1, kept, kept)


def token_images(maps: Sequence[TokenMap], images: Tensor) -> tuple[Tensor, Tensor]:
    """(groups, scores), each (B, H, W, 3), over images (B, H, W, 3) in [0, 1].

    Groups are filled with their mean colour and outlined; a dot marks the token that stands for
    the others, and what is left out is dark. Scores are a heat map, or the plain image in grey
    where there are none. Small images are enlarged until a token has 8 x 8 pixels.
    """
    images = images[..., :3].float().cpu()
    pairs = [_pair(one, image) for one, image in zip(maps, images, strict=True)]
    groups, scores = zip(*pairs, strict=True)
    return torch.stack(groups), torch.stack(scores)


def token_masks(maps: Sequence[TokenMap], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(shortened, destinations), each (B, H, W): 1 where a token is or stands for others."""
    shortened = [_spread(one.shortened.float(), one.grid, size) for one in maps]
    destinations = [_spread((one.sizes > 1).float(), one.grid, size) for one in maps]
    return torch.stack(shortened), torch.stack(destinations)


def _pair(one: TokenMap, image: Tensor) -> tuple[Tensor, Tensor]:
    grid = one.grid
    ratios = (LEAST_SIDE * grid.height / image.shape[0], LEAST_SIDE * grid.width / image.shape[1])
    enlarged = -(-max(ratios) // 1)  # rounded up
    if enlarged > 1:
        image = image.repeat_interleave(int(enlarged), 0).repeat_interleave(int(enlarged), 1)
    return _groups(one, image), _scores(one, image)


def _groups(one: TokenMap, image: Tensor) -> Tensor:
    grid, size = one.grid, image.shape[:2]
    stand_in, sizes = one.stand_in, one.sizes
    colours = functional.adaptive_avg_pool2d(image.movedim(-1, 0), (grid.height, grid.width))
    colours = colours.flatten(1).T  # (N, 3)
    present = stand_in >= 0
    sums = torch.zeros_like(colours).index_add_(0, stand_in[present], colours[present])
    means = (sums / sizes.clamp(min=1)[:, None])[stand_in.clamp(min=0)]
    means[~present] = 0
    filled = FILL * ((sizes[stand_in.clamp(min=0)] > 1) | ~present).float()
    weight = _spread(filled, grid, size)[..., None]
    shown = (1 - weight) * image + weight * _spread(means, grid, size)
    groups = _spread(stand_in, grid, size)
    shown[_outlines(groups)] *= 1 - GREY
    shown[_dots(sizes > 1, grid, size)] = 1.0
    return shown


def _outlines(groups: Tensor) -> Tensor:
    """(H, W) bool: pixels whose right or lower neighbour belongs to another group."""
    edges = torch.zeros_like(groups, dtype=torch.bool)
    edges[:-1] |= groups[:-1] != groups[1:]
    edges[:, :-1] |= groups[:, :-1] != groups[:, 1:]
    return edges


def _dots(tokens: Tensor, grid: TokenGrid, size: Sequence[int]) -> Tensor:
    """(H, W) bool: the middle quarter of the tokens (N,) bool."""
    rows, columns = (
        ((torch.arange(pixels) + 0.5) * count / pixels) % 1
        for pixels, count in zip(size, (grid.height, grid.width), strict=True)
    )
    middle = ((rows - 0.5).abs() < 0.125)[:, None] & ((columns - 0.5).abs() < 0.125)
    return middle & _spread(tokens, grid, size)


def _scores(one: TokenMap, image: Tensor) -> Tensor:
    grey = GREY * image.mean(-1, keepdim=True).expand_as(image)
    if one.scores is None:
        return grey
    low, high = one.scores.min(), one.scores.max()
    level = (one.scores - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    cold, warm, hot = torch.tensor(HEAT)
    rising = (2 * level[:, None]).clamp(max=1)
    rest = (2 * level[:, None] - 1).clamp(min=0)
    heat = cold + rising * (warm - cold) + rest * (hot - warm)  # (N, 3)
    return (grey + _spread(heat, one.grid, image.shape[:2])) / 2


def _spread(values: Tensor, grid: TokenGrid, size: Sequence[int]) -> Tensor:
    """Values of tokens (N, ...) for the pixels in them: (H, W, ...)."""
    rows, columns = (
        torch.arange(pixels) * count // pixels
        for pixels, count in zip(size, (grid.height, grid.width), strict=True)
    )
    return values[rows[:, None] * grid.width + columns]

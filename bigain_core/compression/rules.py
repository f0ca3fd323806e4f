"""What a user asked for: methods, and where and when each acts."""

from __future__ import annotations

from dataclasses import dataclass

from ..methods import Method
from ..placement import LayerId, Placement
from ..schedules import ActiveRange, DenoisingProgress


@dataclass(frozen=True)
class Rule:
    """A method, where and when it acts.

    Queries and keys that carry rotary positions keep to positions that exist unless
    `blends_rotary`; the average of keys turned by different angles loses what tells near from far.
    Keys and values of reference images stay whole, or are shortened by a method of their own.
    With `only_where_faster`, layers in which it is expected to take more time than it saves are
    skipped (see `break_even`); which ones depends on the kind of device.
    """

    method: Method
    placement: Placement = Placement()
    active: ActiveRange = ActiveRange()
    blends_rotary: bool = False
    only_where_faster: bool = False
    references: Method | None = None

    @property
    def is_identity(self) -> bool:
        methods = (self.method, self.references)
        return all(method is None or method.is_identity for method in methods)


@dataclass(frozen=True)
class Compression:
    """An ordered list of rules; for each layer and point of the process the last match decides."""

    rules: tuple[Rule, ...] = ()

    def followed_by(self, rule: Rule) -> Compression:
        return Compression((*self.rules, rule))

    def covers(self, layer_id: LayerId) -> bool:
        """Whether some rule is to change the layer at some time."""
        changing = (rule for rule in self.rules if not rule.is_identity)
        return any(rule.placement.covers(layer_id) for rule in changing)

    def rule_at(self, layer_id: LayerId, progress: DenoisingProgress) -> Rule | None:
        for rule in reversed(self.rules):
            if rule.placement.covers(layer_id) and rule.active.contains(progress):
                return rule
        return None

"""Alerts on a wallet's balance: each fires once when the level crosses its threshold, and again only after it has come back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

SETTLED, AVAILABLE = "settled", "available"
BELOW, ABOVE = "below", "above"
# They travel with their wallet in every commit, so there is an end to them.
MAX_ALERTS = 20


@dataclass(frozen=True, slots=True)
class Alert:
    """Fires when the level `on` which it watches goes `direction` of `threshold`; all amounts in minor units of the wallet's asset.

    Once it has fired it waits until the level has come back to the threshold, and `rearm_margin` further: a balance that trembles
    around the threshold is reported once. `level` is what it saw last.
    """

    alert_id: str
    on: str
    direction: str
    threshold: int
    rearm_margin: int
    armed: bool
    level: int
    created_at: datetime
    fired_at: datetime | None = None

    def look(self, level: int, now: datetime) -> Alert:
        """The alert as it is after it has seen `level`; it has fired if its `fired_at` is another one."""
        if self.armed and self.is_beyond(level):
            return replace(self, armed=False, level=level, fired_at=now)
        return replace(self, armed=self.armed or self._is_back(level), level=level)

    def is_beyond(self, level: int) -> bool:
        """Whether `level` lies on the side that is reported."""
        return level < self.threshold if self.direction == BELOW else level > self.threshold

    def _is_back(self, level: int) -> bool:
        if self.direction == BELOW:
            return level >= self.threshold + self.rearm_margin
        return level <= self.threshold - self.rearm_margin


@dataclass(frozen=True, slots=True)
class Crossing:
    """An alert that fired: the level before and after the operation that made it cross."""

    alert: Alert
    wallet_id: str
    owner_id: str
    previous: int
    at: datetime

    @property
    def current(self) -> int:
        return self.alert.level

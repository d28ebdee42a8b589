"""What an attempt to deliver means: for the delivery, and for the webhook whose it is. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from core.modules.webhooks_module.delivery_repository import DELIVERED, FAILED, PENDING
from core.modules.webhooks_module.repository import DISABLED
from core.modules.webhooks_module.sender import Attempt
from utils.backoff import retry_pause

TRIES = 15
_FIRST_PAUSE, _LARGEST_PAUSE = 60.0, 3600.0
_PASSING = (408, 429)
_SERVER_ERROR = 500
# A webhook to which nothing has arrived for so long, and for which so many deliveries were given up, is disabled.
FAILING_FOR = timedelta(days=1)
GIVEN_UP = 5
FAILING, OWNER_GONE = "failing", "owner-gone"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status` of the delivery after an attempt; when PENDING, after how many seconds the next one comes."""

    status: str
    pause: float = 0.0

    @property
    def label(self) -> str:
        """For metrics."""
        return "retried" if self.status == PENDING else self.status


def outcome_of(attempt: Attempt, tries: int, draw: Callable[[], float]) -> Outcome:
    """What follows from the `tries`th attempt: network errors, 408, 429 and 5xx may pass, everything else that is no 2xx is final."""
    if attempt.arrived:
        return Outcome(DELIVERED)
    code = attempt.status_code
    may_pass = code is None or code in _PASSING or code >= _SERVER_ERROR
    if not may_pass or tries >= TRIES:
        return Outcome(FAILED)
    if attempt.retry_after is not None:
        return Outcome(PENDING, min(max(attempt.retry_after, _FIRST_PAUSE), _LARGEST_PAUSE))
    return Outcome(PENDING, retry_pause(tries, _FIRST_PAUSE, _LARGEST_PAUSE, draw))


def standing_after(standing: Mapping[str, Any], outcomes: list[str], now: datetime) -> dict[str, Any]:
    """The fields of a webhook that change with the `outcomes` (statuses) of some attempts; `standing` is how it was."""
    if DELIVERED in outcomes:
        return {"failing_since": None, "given_up": 0} if standing["failing_since"] is not None else {}
    since = standing["failing_since"] or now
    given_up = standing["given_up"] + outcomes.count(FAILED)
    fields = {"failing_since": since, "given_up": given_up}
    if standing["status"] != DISABLED and given_up >= GIVEN_UP and now - since >= FAILING_FOR:
        return {**fields, "status": DISABLED, "disabled_reason": FAILING}
    return fields if fields != {name: standing[name] for name in fields} else {}

"""What a commit tells the world: an outbox of its transactions, holds, grants and alerts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core.modules.transactions_module.alerts import Crossing
from core.modules.transactions_module.commands import Outcome
from core.modules.transactions_module.ledger import EXPIRED, REVERSAL, VOIDED
from core.modules.transactions_module.operations import Adjust, Capture, PlaceHold, Release
from core.modules.transactions_module.schemas import hold_view
from core.outbox import Notice
from utils.clock import rfc3339

TRANSACTION_POSTED, TRANSACTION_REVERSED = "transaction.posted", "transaction.reversed"
GRANT_CREATED, GRANT_EXPIRED, GRANT_VOIDED = "grant.created", "grant.expired", "grant.voided"
HOLD_CREATED, HOLD_CAPTURED, HOLD_RELEASED = "hold.created", "hold.captured", "hold.released"
HOLD_ADJUSTED, HOLD_EXPIRED, ALERT_CROSSED = "hold.adjusted", "hold.expired", "alert.crossed"
_OF_HOLDS = {PlaceHold.name: HOLD_CREATED, Capture.name: HOLD_CAPTURED, Release.name: HOLD_RELEASED, Adjust.name: HOLD_ADJUSTED}
_OF_GRANTS = {EXPIRED: GRANT_EXPIRED, VOIDED: GRANT_VOIDED}


def notices(outcome: Outcome) -> Iterator[Notice]:
    """The events of a commit. Records that never change again are named only; a hold goes on, so it is told as it was."""
    for posting in outcome.posted:
        yield Notice(TRANSACTION_POSTED, posting.transaction.id)
        if posting.transaction.type == REVERSAL:
            yield Notice(TRANSACTION_REVERSED, posting.transaction.id)
    for issue in outcome.issued:
        yield Notice(GRANT_CREATED, issue.grant.lot.grant_id)
    for step in outcome.hold_steps:
        yield Notice(_OF_HOLDS[step.verb], step.hold.id, {"hold": hold_view(step.hold, outcome.decided_at)})
    for hold_id, fields in outcome.hold_changes.items():
        if fields["status"] == EXPIRED:
            yield Notice(HOLD_EXPIRED, hold_id)
    for grant_id, ended in outcome.grant_ends.items():
        if ended is not None:
            yield Notice(_OF_GRANTS[ended], grant_id)
    for crossing in outcome.crossings:
        yield Notice(ALERT_CROSSED, crossing.alert.alert_id, crossing_view(crossing))


def crossing_view(crossing: Crossing) -> dict[str, Any]:
    """What is told of an alert that fired; amounts in minor units of the wallet's asset."""
    alert = crossing.alert
    return {
        "alert_id": alert.alert_id,
        "wallet_id": crossing.wallet_id,
        "owner_id": crossing.owner_id,
        "on": alert.on,
        "direction": alert.direction,
        "threshold": alert.threshold,
        "previous": crossing.previous,
        "current": crossing.current,
        "at": rfc3339(crossing.at),
    }

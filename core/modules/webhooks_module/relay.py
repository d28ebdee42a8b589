"""Turns what lies in the outbox into deliveries: once among all workers, and exactly once for each event and webhook."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from core import metrics
from core.lease import LeaseLost
from core.modules.webhooks_module.delivery_repository import new_delivery
from core.modules.webhooks_module.events import wants
from core.modules.webhooks_module.outbox_repository import OutboxRepository
from tools.error_handling.errors import AppError, Unavailable
from tools.logger.custom_logger import custom_log, log_exception
from utils.clock import utc_now

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from core.lease import Lease

# One transaction is short: so many events, times the webhooks that might want each, and so many documents that nobody wants.
_DELIVERIES_AT_ONCE = 2000
_EVENTS_AT_ONCE = 250
_SKIPPED_AT_ONCE = 5000
# What one tick does at the most: it has to be over long before the lease is.
_ROUNDS = 100


class Relay:
    """Call `tick` again and again in each worker; the holder of the lease works, the others do nothing.

    Reading, writing and marking are one transaction, bound to the lease: whoever dies in it has done nothing, and of two
    who both believe in the lease one cannot commit. It reads the webhooks of the same moment as the events, so that a webhook
    is told of everything that was committed after it.
    """

    def __init__(
        self, outbox: OutboxRepository, lease: Lease, relayed: Callable[[], None], clock: Callable[[], datetime] = utc_now
    ) -> None:
        """`relayed` is called when there are new deliveries."""
        self._outbox = outbox
        self._lease = lease
        self._relayed = relayed
        self._clock = clock

    def tick(self) -> int:
        """Relay what waits; how many deliveries came of it. Unavailable, LeaseLost."""
        was_ours = self._lease.is_held
        if not self._lease.take():
            if was_ours:
                # Whoever relays now tells; what we told would stand on this machine for ever.
                metrics.WEBHOOK_BACKLOG.set(0)
            return 0
        total = 0
        for _ in range(_ROUNDS):
            made, is_all = self._outbox.transaction(self._relay)
            total += made
            if made:
                self._relayed()
            if is_all:
                break
        since = self._outbox.waiting_since()
        metrics.WEBHOOK_BACKLOG.set(max(0.0, (self._clock() - since).total_seconds()) if since is not None else 0)
        metrics.note_run("webhook-relay")
        return total

    def stop(self) -> None:
        """Let another worker go on at once."""
        try:
            self._lease.release()
        except Unavailable:
            # It ends by itself.
            custom_log("the webhook relay's lease is left to expire", level="WARNING")

    def failed(self, error: Exception) -> None:
        """Note that a tick went wrong; the next one comes."""
        if isinstance(error, LeaseLost):
            custom_log("the webhook relay has lost its lease", level="WARNING")
        elif isinstance(error, AppError):
            custom_log("the webhook relay has to wait", level="WARNING", code=error.code)
        else:
            log_exception("the webhook relay stumbled", error)

    def _relay(self, session: ClientSession) -> tuple[int, bool]:
        """One transaction's worth: how many deliveries were made, and whether nothing is left."""
        told = self._tell(session)
        # Last: until the commit nobody else can touch the lease, and of one who dies here that would be felt for a while.
        self._lease.fence(session)
        return told

    def _tell(self, session: ClientSession) -> tuple[int, bool]:
        now = self._clock()
        subscriptions = self._outbox.subscriptions(session)
        if not subscriptions:
            return 0, self._outbox.skip(_SKIPPED_AT_ONCE, now, session) < _SKIPPED_AT_ONCE
        limit = max(1, min(_EVENTS_AT_ONCE, _DELIVERIES_AT_ONCE // len(subscriptions)))
        taken = self._outbox.take(limit, session)
        if not taken:
            return 0, True
        receivers = _Receivers(subscriptions)
        events = self._outbox.complete(taken, receivers.of, session)
        deliveries = [new_delivery(webhook_id, event, now) for event in events for webhook_id in receivers.of(event.type)]
        self._outbox.save(deliveries, taken, now, session)
        return len(deliveries), sum(len(told.events) for told in taken) < limit


class _Receivers:
    """Who wants what, looked at once for each type."""

    def __init__(self, subscriptions: Mapping[str, Sequence[str]]) -> None:
        self._subscriptions = subscriptions
        self._by_type: dict[str, list[str]] = {}

    def of(self, event_type: str) -> list[str]:
        """The webhooks that want events of this type."""
        found = self._by_type.get(event_type)
        if found is None:
            found = [webhook_id for webhook_id, patterns in self._subscriptions.items() if wants(patterns, event_type)]
            self._by_type[event_type] = found
        return found

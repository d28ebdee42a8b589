"""Sends what is due: several deliveries at a time in each worker, and no receiver holds up those to the others."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

from core import metrics
from core.modules.webhooks_module.delivery_repository import DELIVERED, NOT_QUEUED, PENDING, DeliveryRepository
from core.modules.webhooks_module.outcomes import FAILING, OWNER_GONE, Outcome, outcome_of, standing_after
from core.modules.webhooks_module.repository import DISABLED, WebhookRepository
from core.modules.webhooks_module.sender import Attempt, Sender
from core.modules.webhooks_module.signing import delivery_headers
from tools.error_handling.errors import AppError
from tools.logger.custom_logger import custom_log, log_exception
from utils.background import Ticker
from utils.clock import utc_now

# Of one webhook, in one worker; of one to which nothing arrives at present, a single one.
_OF_EACH = 8
_STOP_SECONDS = 5.0

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Result:
    delivery: Document
    at: datetime
    attempt: Attempt
    outcome: Outcome
    was_failing: bool


class Deliverer:
    """One loop claims and writes down, for all deliveries in one round trip each; threads (green ones) wait for the receivers.

    A delivery is claimed for a while: if this worker dies, another one sends it later, perhaps once more.
    """

    def __init__(
        self,
        webhooks: WebhookRepository,
        deliveries: DeliveryRepository,
        sender: Sender,
        *,
        owners: Callable[[Collection[str]], Collection[str]],
        at_once: int,
        locked: float,
        seconds: float,
        clock: Callable[[], datetime] = utc_now,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`owners`: which of these users may have webhooks. `at_once`: deliveries on their way.

        `locked`: seconds for which one is claimed, more than an attempt takes; `seconds` between two looks.
        """
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._sender = sender
        self._owners = owners
        self._at_once = at_once
        self._locked = timedelta(seconds=locked)
        self._clock = clock
        self._draw = draw
        self._lock = threading.Lock()
        self._underway: dict[str, tuple[str, threading.Thread]] = {}
        self._results: list[_Result] = []
        self._ending = False
        self._ticker = Ticker("webhook-deliverer", seconds, self.tick, self._failed)

    # Life

    def start(self) -> None:
        """Begin to look for what is due."""
        self._ticker.start()

    def wake(self) -> None:
        """Look now."""
        self._ticker.wake()

    def stop(self) -> None:
        """Break off what is on its way (it is due again at once), and write down what has come back. Safe to call twice."""
        self._ending = True
        self._ticker.stop()
        self._sender.close()
        for _, thread in list(self._underway.values()):
            thread.join(_STOP_SECONDS)
        try:
            self._write_down()
        except AppError as error:
            # They are sent once more when their claims have ended.
            custom_log("results of webhook deliveries are lost", level="WARNING", code=error.code)

    @property
    def underway(self) -> int:
        """How many deliveries are on their way."""
        return len(self._underway)

    def tick(self) -> int:
        """Write down what came back, and send what is due, as far as there is room; how many were sent. Unavailable."""
        self._write_down()
        return self._send_more() if not self._ending else 0

    def _failed(self, error: Exception) -> None:
        if isinstance(error, AppError):
            custom_log("webhook deliveries have to wait", level="WARNING", code=error.code)
        else:
            log_exception("the webhook deliverer stumbled", error)

    # Sending

    def _send_more(self) -> int:
        with self._lock:
            used = Counter(webhook_id for webhook_id, _ in self._underway.values())
        free = self._at_once - used.total()
        if free <= 0:
            return 0
        full = [webhook_id for webhook_id, count in used.items() if count >= _OF_EACH]
        due = self._deliveries.due(self._clock(), full, webhooks=free, of_each=_OF_EACH)
        if not due:
            return 0
        webhooks = self._usable(list(due))
        chosen = list(_in_turn(due, webhooks, used))[:free]
        if not chosen:
            return 0
        now = self._clock()
        claimed = self._deliveries.claim(chosen, now, now + self._locked)
        for delivery in claimed:
            self._start(webhooks[delivery["webhook_id"]], delivery)
        return len(claimed)

    def _usable(self, webhook_ids: list[str]) -> dict[str, Document]:
        """Those webhooks that are active and whose owners may have them; what waits for the others is cancelled."""
        active = {webhook["_id"]: webhook for webhook in self._webhooks.active(webhook_ids)}
        entitled = self._owners({webhook["owner_id"] for webhook in active.values()})
        orphans = [webhook_id for webhook_id, webhook in active.items() if webhook["owner_id"] not in entitled]
        if orphans:
            self._webhooks.disable(orphans, OWNER_GONE)
            _tell_disabled(orphans, OWNER_GONE)
        usable = {webhook_id: webhook for webhook_id, webhook in active.items() if webhook_id not in orphans}
        if len(usable) < len(webhook_ids):
            self._deliveries.cancel([webhook_id for webhook_id in webhook_ids if webhook_id not in usable])
        return usable

    def _start(self, webhook: Document, delivery: Document) -> None:
        # A plain thread for each: as many as there are deliveries underway, and green ones in a worker.
        thread = threading.Thread(target=self._deliver, args=(webhook, delivery), name="webhook-delivery", daemon=True)
        with self._lock:
            self._underway[delivery["_id"]] = webhook["_id"], thread
        thread.start()

    def _deliver(self, webhook: Document, delivery: Document) -> None:
        try:
            result = self._attempt(webhook, delivery)
            with self._lock:
                self._results.append(result)
        except Exception as error:  # noqa: BLE001  a fault of ours: it is tried again when its claim has ended
            log_exception("a webhook delivery failed", error, delivery=delivery["_id"])
        finally:
            with self._lock:
                del self._underway[delivery["_id"]]
            self._ticker.wake()

    def _attempt(self, webhook: Document, delivery: Document) -> _Result:
        now, body = self._clock(), delivery["body"].encode()
        names = {"event_id": delivery["event_id"], "event_type": delivery["event_type"], "delivery_id": delivery["_id"]}
        headers = delivery_headers(webhook["secret"], int(now.timestamp()), body, **names)
        attempt = self._sender.post(webhook["url"], headers, body)
        outcome = outcome_of(attempt, len(delivery["attempts"]) + 1, self._draw)
        return _Result(delivery, now, attempt, outcome, webhook["failing_since"] is not None)

    # Writing down

    def _write_down(self) -> None:
        with self._lock:
            results, self._results = self._results, []
        if not results:
            return
        try:
            disabled = self._webhooks.transaction(lambda session: self._save(results, session))
        except AppError:
            with self._lock:
                self._results = results + self._results
            raise
        for result in results:
            if not self._was_broken_off(result):
                metrics.WEBHOOK_ATTEMPTS.labels(result.outcome.label).inc()
                metrics.WEBHOOK_SECONDS.observe(result.attempt.seconds)
        if disabled:
            _tell_disabled(disabled, FAILING)

    def _save(self, results: list[_Result], session: Any) -> list[str]:
        """Write results and what they mean for their webhooks; which of these are disabled by it."""
        self._deliveries.save_results([(result.delivery, self._update_of(result)) for result in results], session)
        outcomes: dict[str, list[str]] = {}
        for result in results:
            # The usual case, all is well and was before, costs nothing.
            if not self._was_broken_off(result) and (result.was_failing or result.outcome.status != DELIVERED):
                outcomes.setdefault(result.delivery["webhook_id"], []).append(result.outcome.status)
        changes = {}
        for standing in self._webhooks.standings(outcomes, session) if outcomes else ():
            fields = standing_after(standing, outcomes[standing["_id"]], self._clock())
            if fields:
                changes[standing["_id"]] = fields
        if changes:
            self._webhooks.save_standings(changes, session)
        return [webhook_id for webhook_id, fields in changes.items() if fields.get("status") == DISABLED]

    def _was_broken_off(self, result: _Result) -> bool:
        """Whether it failed because we stop: that says nothing about the receiver."""
        return self._ending and result.attempt.status_code is None

    def _update_of(self, result: _Result) -> Mapping[str, Any]:
        if self._was_broken_off(result):
            return {"$set": {"claim": None, "next_attempt_at": result.at}}
        attempt, outcome = result.attempt, result.outcome
        fields: dict[str, Any] = {"claim": None, "status": outcome.status}
        if outcome.status == PENDING:
            fields["next_attempt_at"] = self._clock() + timedelta(seconds=outcome.pause)
        entry = {
            "at": result.at,
            "status_code": attempt.status_code,
            "error": attempt.error,
            "duration_ms": round(attempt.seconds * 1000),
        }
        ends = {} if outcome.status == PENDING else {"$unset": NOT_QUEUED}
        return {"$set": fields, "$push": {"attempts": entry}, **ends}


def _in_turn(due: Mapping[str, list[str]], webhooks: Mapping[str, Document], used: Counter[str]) -> Iterator[str]:
    """The first of each webhook, then the second of each, ...: as many of each as it has room for."""
    rooms = {webhook_id: 1 if webhook["failing_since"] is not None else _OF_EACH for webhook_id, webhook in webhooks.items()}
    queues = [due[webhook_id][: max(0, room - used[webhook_id])] for webhook_id, room in rooms.items()]
    return (delivery_id for row in zip_longest(*queues) for delivery_id in row if delivery_id is not None)


def _tell_disabled(webhook_ids: Collection[str], reason: str) -> None:
    metrics.WEBHOOKS_DISABLED.labels(reason).inc(len(webhook_ids))
    for webhook_id in webhook_ids:
        custom_log("a webhook is disabled", level="WARNING", webhook=webhook_id, reason=reason)

"""Makes the scheduled transfers that are due: once among all workers, through the posting engine like everybody's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from core import metrics
from core.modules.schedules_module import errors
from core.modules.schedules_module.schedule import Run, claim_of, decided_run, draft_of, refused_run
from core.modules.transactions_module.commands import Command, Verdict
from core.modules.transactions_module.ledger import Transaction
from core.modules.transactions_module.operations import Actor, Post
from core.web.routing import ADMIN, SERVICE, WRITERS
from tools.error_handling.errors import AppError, Unavailable
from tools.logger.custom_logger import custom_log, log_exception
from utils.backoff import backoff
from utils.clock import utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.lease import Lease
    from core.modules.transactions_module.engine import PostingEngine

_AT_ONCE = 32
# What one tick does at the most: then the lease is looked after again, and whoever stops us need not wait for long.
_ROUNDS = 32
_FIRST_PAUSE, _LONGEST_PAUSE, _FOR_EVER = 1.0, 30.0, float("inf")
_PRIVILEGED = (SERVICE, ADMIN)
_ROLES_BY_ID = Callable[[Sequence[str]], Mapping[str, str]]


class Schedules(Protocol):
    """Where it is known what is due, and where it is written down how it went."""

    def due(self, now: datetime, limit: int) -> list[dict[str, Any]]: ...

    def note(self, runs: Sequence[Run], now: datetime) -> list[dict[str, Any]]: ...


class Runner:
    """Call `tick` again and again in each worker; the holder of the lease works, the others do nothing.

    A run is a money verb whose idempotency key follows from the schedule and the occurrence, and it is noted after it was
    decided. So whoever crashes in between, or works although the lease is somebody else's by now, pays nothing twice: the
    next attempt finds the answer.
    """

    def __init__(
        self,
        engine: PostingEngine,
        schedules: Schedules,
        lease: Lease,
        *,
        find_roles: _ROLES_BY_ID,
        find_transaction: Callable[[str], Transaction | None],
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`find_roles`: the roles of those of these users who may be here at all."""
        self._engine = engine
        self._schedules = schedules
        self._lease = lease
        self._find_roles = find_roles
        self._find_transaction = find_transaction
        self._clock = clock
        self._pauses: Iterator[float] | None = None
        self._rests_until = 0.0

    def tick(self) -> int:
        """Make what is due; how many runs were noted."""
        if time.monotonic() < self._rests_until:
            return 0
        try:
            total = self._work()
        except Unavailable:
            self._rest()
            raise
        metrics.note_run("schedules")
        return total

    def stop(self) -> None:
        """Let another worker go on at once."""
        try:
            self._lease.release()
        except Unavailable:
            # It ends by itself.
            custom_log("the schedules' lease is left to expire", level="WARNING")

    def failed(self, error: Exception) -> None:
        """Note that a tick went wrong; the next one comes."""
        if isinstance(error, AppError):
            custom_log("scheduled transfers have to wait", level="WARNING", code=error.code)
        else:
            log_exception("the scheduled transfers stumbled", error)

    def _work(self) -> int:
        total = 0
        for _ in range(_ROUNDS):
            due = self._schedules.due(self._clock(), _AT_ONCE)
            if not due or not self._lease.take():
                break
            runs = self._attempt_all(due)
            total += self._note(runs)
            if len(runs) < len(due):
                raise Unavailable("The ledger takes no scheduled transfers just now.")
            self._pauses = None
        return total

    def _rest(self) -> None:
        if self._pauses is None:
            self._pauses = backoff(_FIRST_PAUSE, _LONGEST_PAUSE, _FOR_EVER)
        self._rests_until = time.monotonic() + next(self._pauses)

    def _note(self, runs: Sequence[Run]) -> int:
        now = self._clock()
        rows = self._schedules.note(runs, now)
        for row in rows:
            metrics.SCHEDULE_RUNS.labels(row["status"]).inc()
            metrics.SCHEDULE_LATENESS.observe(max(0.0, (now - row["at"]).total_seconds()))
        return len(rows)

    # One run

    def _attempt_all(self, schedules: Sequence[dict[str, Any]]) -> list[Run]:
        """All at the same time, so that they share commits; those that were decided."""
        roles = self._find_roles(sorted({schedule["creator_id"] for schedule in schedules}))
        results: list[Run | None] = [None] * len(schedules)

        def attempt(index: int) -> None:
            results[index] = self._attempt(schedules[index], roles.get(schedules[index]["creator_id"]))

        threads = [threading.Thread(target=attempt, args=(index,), name="scheduled-run", daemon=True) for index in range(len(schedules))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [run for run in results if run is not None]

    def _attempt(self, schedule: dict[str, Any], role: str | None) -> Run | None:
        """How the next occurrence was decided, with the rights that its creator has now; None when it was not."""
        if role not in WRITERS:
            return refused_run(schedule, errors.creator_inactive().problem())
        actor = Actor(schedule["creator_id"], privileged=role in _PRIVILEGED, sees_all=False)
        try:
            verdict = self._engine.submit(Command((Post(draft_of(schedule)),), actor, claim_of(schedule), schedule["_id"]))
            return self._decided(schedule, verdict)
        except Unavailable:
            metrics.SCHEDULE_RUNS.labels("retried").inc()
        except Exception as error:  # noqa: BLE001  one schedule that nobody foresaw must not stop the others for ever
            log_exception("a scheduled transfer failed", error, schedule_id=schedule["_id"])
            return refused_run(schedule, AppError("It could not be done.").problem())
        return None

    def _decided(self, schedule: dict[str, Any], verdict: Verdict) -> Run:
        run = decided_run(schedule, verdict.status, verdict.body, stored=verdict.stored)
        if run.error == "duplicate-reference":
            # The key is only kept for days, the reference for ever: of an old run that nobody had noted it tells.
            transaction_id = json.loads(verdict.body)["transaction_id"]
            transaction = self._find_transaction(transaction_id)
            if transaction is not None and transaction.metadata.get("schedule_id") == schedule["_id"]:
                return Run(schedule["_id"], run.at, run.claim, transaction_id=transaction_id)
        return run

"""Schedules and their runs in MongoDB; the only file of this module that sees the driver."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError

from core.audit import audit_entry
from core.modules.schedules_module import errors
from core.modules.schedules_module.schedule import (
    ACTIVE,
    CANCELLED,
    SCHEDULE_FAILED,
    SUCCEEDED,
    Progress,
    Run,
    claim_of,
    decided_run,
    progress,
)
from core.modules.schedules_module.schemas import run_view, schedule_view
from core.modules.transactions_module.commands import Claim, StoredAnswer, Verdict
from core.modules.transactions_module.errors import key_reused
from core.outbox import OUTBOX, Notice, outbox_row
from tools.error_handling.errors import Unavailable

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager
    from core.modules.wallet_module.repository import WalletRepository

_SCHEDULES, _RUNS, _CLAIMS = "schedules", "schedule_runs", "idempotency"
_CLAIM_LIFE = timedelta(days=7)
_DUPLICATE_RETRIES = 3

T = TypeVar("T")
# The verdict on a wish for a schedule, and its document when it is granted: from the wallets by id, and the places that
# the active schedules of the source's owner have taken.
Decide = Callable[[Mapping[str, dict[str, Any]], set[int]], tuple[Verdict, dict[str, Any] | None]]


class ScheduleRepository:
    """Each change is one transaction, so that of those who race exactly one has its way."""

    def __init__(self, database: DatabaseManager, wallets: WalletRepository) -> None:
        self._database = database
        self._wallets = wallets

    # Making

    def place(self, claim: Claim | None, parties: tuple[str, str], decide: Decide, now: datetime) -> Verdict:
        """What `decide` says, kept together with its schedule, or what was answered to `claim` before.

        `parties`: the ids of the source's and the destination's wallet. A dry run has no claim, and nothing of it is kept.
        """

        def work(session: ClientSession) -> Verdict:
            known = self._answers([claim], session).get(claim.id) if claim is not None else None
            if claim is not None and known is not None:
                return _replay(claim, known)
            wallets = {wallet["_id"]: wallet for wallet in self._wallets.load_many(parties, session)}
            source = wallets.get(parties[0])
            verdict, schedule = decide(wallets, self._taken_places(source["owner_id"], session) if source is not None else set())
            if claim is not None:
                if schedule is not None:
                    self._database.insert_one(_SCHEDULES, schedule, session)
                self._database.insert_rows(_CLAIMS, [_claim_row(claim, verdict.status, verdict.body, now)], session)
            return verdict

        return self._transaction(work)

    def _taken_places(self, owner_id: str, session: ClientSession) -> set[int]:
        rows = self._database.collection(_SCHEDULES).find({"owner_id": owner_id, "place": {"$exists": True}}, ("place",), session=session)
        return {row["place"] for row in rows}

    # Running

    def due(self, now: datetime, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` active schedules whose next run is due, the longest due first."""
        query = {"status": ACTIVE, "next_run_at": {"$lte": now}}
        return self._database.find_many(_SCHEDULES, query, sort=(("next_run_at", 1),), limit=limit)

    def note(self, runs: Sequence[Run], now: datetime) -> list[dict[str, Any]]:
        """Write down how these runs ended, and have their schedules go on; the rows of the log that came of it.

        What somebody else has noted, or decided otherwise, is left as it is.
        """

        def work(session: ClientSession) -> list[dict[str, Any]]:
            stored = self._load({"_id": {"$in": [run.schedule_id for run in runs]}}, session)
            waiting = [run for run in runs if _waits_for(stored[run.schedule_id], run)]
            fenced = [run for run in waiting if run.fence is not None]
            decided = self._answers([run.claim for run in fenced], session)
            noted = [run for run in waiting if run.fence is None or run.claim.id not in decided]
            changes = [(stored[run.schedule_id], progress(stored[run.schedule_id], run, now)) for run in noted]
            fences = [(run.claim, run.fence) for run in noted if run.fence is not None]
            self._write(changes, fences, now, session)
            return [row for _, change in changes for row in change.rows]

        return self._transaction(work)

    # Ending

    def cancel(self, schedule_id: str, now: datetime) -> None:
        """End one, for good: what was not decided by now never happens. One that has ended stays as it is."""
        self._transaction(lambda session: self._end({"_id": schedule_id}, now, session))

    def end_all(self, owner_id: str, now: datetime, session: ClientSession) -> None:
        """End all schedules that pay out of the wallets of a user who is leaving."""
        self._end({"owner_id": owner_id}, now, session)

    def _end(self, query: Mapping[str, Any], now: datetime, session: ClientSession) -> None:
        schedules = self._load({**query, "status": ACTIVE}, session)
        claims = {schedule_id: claim_of(schedule) for schedule_id, schedule in schedules.items()}
        decided = self._answers(claims.values(), session)
        changes, fences = [], []
        for schedule_id, schedule in schedules.items():
            answer = decided.get(claims[schedule_id].id)
            if answer is None:
                change = Progress({}, [])
                fences.append((claims[schedule_id], errors.cancelled().problem()))
            else:
                change = progress(schedule, decided_run(schedule, answer.status, answer.body), now)
            # A last run that was decided already has ended it by itself.
            changes.append((schedule, Progress({"status": CANCELLED, "next_run_at": None, **_ended(change.fields)}, change.rows)))
        self._write(changes, fences, now, session)
        if schedules:
            self._database.insert_rows("audit_logs", [audit_entry("schedules.cancel", schedule_id) for schedule_id in schedules], session)

    # Reading

    def find(self, schedule_id: str) -> dict[str, Any] | None:
        return self._database.find_one(_SCHEDULES, {"_id": schedule_id})

    def page(self, filters: Mapping[str, Any], before: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` schedules, newest first, with ids below `before`."""
        query = {**filters, **({"_id": {"$lt": before}} if before is not None else {})}
        return self._database.find_many(_SCHEDULES, query, sort=(("_id", -1),), limit=limit)

    def runs(self, schedule_id: str, before: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` runs of a schedule, newest first, with ids below `before`; one range scan over `_id`."""
        query = {"_id": {"$gt": f"{schedule_id}:", "$lt": before or f"{schedule_id};"}}
        return self._database.find_many(_RUNS, query, sort=(("_id", -1),), limit=limit)

    # Inside of a transaction

    def _transaction(self, work: Callable[[ClientSession], T]) -> T:
        for _ in range(_DUPLICATE_RETRIES):
            try:
                return self._database.transaction(work)
            except DuplicateKeyError:
                # Somebody was first with a claim or a place; read again, and it is there.
                continue
        raise Unavailable("Too many requests for the same thing.")

    def _load(self, query: Mapping[str, Any], session: ClientSession) -> dict[str, dict[str, Any]]:
        return {row["_id"]: row for row in self._database.collection(_SCHEDULES).find(query, session=session)}

    def _answers(self, claims: Iterable[Claim], session: ClientSession) -> dict[str, StoredAnswer]:
        ids = [claim.id for claim in claims]
        rows = self._database.collection(_CLAIMS).find({"_id": {"$in": ids}}, session=session) if ids else ()
        return {row["_id"]: StoredAnswer(row["fingerprint"], row["status"], row["body"]) for row in rows}

    def _write(
        self,
        changes: Sequence[tuple[dict[str, Any], Progress]],
        fences: Sequence[tuple[Claim, Mapping[str, Any]]],
        now: datetime,
        session: ClientSession,
    ) -> None:
        if changes:
            self._database.update_rows(
                _SCHEDULES, [({"_id": before["_id"]}, _update(change.fields)) for before, change in changes], session
            )
        notices = [notice for before, change in changes for notice in _notices(before, change)]
        rows = {
            _RUNS: [row for _, change in changes for row in change.rows],
            _CLAIMS: [_claim_row(claim, problem["status"], json.dumps(problem), now) for claim, problem in fences],
            OUTBOX: [outbox_row(now, notices)] if notices else [],
        }
        for collection, documents in rows.items():
            if documents:
                self._database.insert_rows(collection, documents, session)


def _waits_for(schedule: Mapping[str, Any], run: Run) -> bool:
    return bool(schedule["status"] == ACTIVE and schedule["next_run_at"] == run.at)


def _ended(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what would have come next; the status only where it is final."""
    return {name: value for name, value in fields.items() if name != "next_run_at"}


def _update(fields: dict[str, Any]) -> dict[str, Any]:
    # Only what is active takes a place.
    return {"$set": fields, **({"$unset": {"place": ""}} if "status" in fields else {})}


def _notices(before: Mapping[str, Any], change: Progress) -> Iterable[Notice]:
    """What webhooks are told: each run that did not pay, and the schedule as it is afterwards."""
    schedule = {**before, **change.fields}
    for row in change.rows:
        if row["status"] != SUCCEEDED:
            yield Notice(SCHEDULE_FAILED, before["_id"], {"schedule": schedule_view(schedule), "run": run_view(row)})


def _replay(claim: Claim, known: StoredAnswer) -> Verdict:
    if known.fingerprint != claim.fingerprint:
        raise key_reused()
    return Verdict(known.status, known.body, replayed=True)


def _claim_row(claim: Claim, status: int, body: str, now: datetime) -> dict[str, Any]:
    return {
        "_id": claim.id,
        "fingerprint": claim.fingerprint,
        "status": status,
        "body": body,
        "transaction_id": None,
        "expires_at": now + _CLAIM_LIFE,
    }

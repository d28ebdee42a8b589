"""What becomes of a schedule: its occurrences, the transfer that each one is, and how it goes on after a run; without I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from core.modules.schedules_module import errors
from core.modules.schedules_module.recurrence import Recurrence
from core.modules.transactions_module.commands import Claim
from core.modules.transactions_module.ledger import TRANSFER, Draft
from utils.clock import rfc3339
from utils.ids import new_id

ACTIVE, FINISHED, CANCELLED, FAILED = "active", "finished", "cancelled", "failed"
SUCCEEDED, SKIPPED = "succeeded", "skipped"
# What the outbox is told of each run that did not pay.
SCHEDULE_FAILED = "schedule.failed"
# The code of what was skipped.
MISSED = "missed"
# As many runs in a row are made up for when nobody was there to make them in time; what is left is skipped.
CATCH_UP = 100
# Whoever says "now" is not told that it is over.
_GRACE = timedelta(minutes=1)
_RUN_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Run:
    """How one occurrence ended: with a transaction, or with the code of an error.

    `fence`: the problem of a refusal that the ledger does not keep; it has to be kept with the run, or somebody else's
    attempt at the same occurrence might still succeed.
    """

    schedule_id: str
    at: datetime
    claim: Claim
    transaction_id: str | None = None
    error: str | None = None
    fence: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run changes: fields of the schedule, and the rows of its log."""

    fields: dict[str, Any]
    rows: list[dict[str, Any]]


def new_schedule(wish: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The document of a schedule. `wish`: owner_id, creator_id, source, destination, amount, memo, reference, metadata,
    run_at and rrule. Raises Unprocessable when nothing of it lies in the future.

    `runs` counts occurrences that were decided, `logged` the rows of the log, `late` how many were made up for in a row.
    """
    if wish["rrule"] is None:
        if wish["run_at"] < now - _GRACE:
            raise errors.in_the_past()
        first = wish["run_at"]
    else:
        first = Recurrence.parse(wish["rrule"], wish["run_at"]).next_after(now - _GRACE)
        if first is None:
            raise errors.no_occurrence_left()
    counts = {"runs": 0, "logged": 0, "late": 0}
    return {"_id": new_id("sch"), **wish, "status": ACTIVE, "next_run_at": first, **counts, "last_run": None, "created_at": now}


def claim_of(schedule: Mapping[str, Any]) -> Claim:
    """The idempotency key of the next occurrence: nobody pays it twice, and who ends the schedule takes the key away."""
    occurrence = f"{schedule['_id']}@{rfc3339(schedule['next_run_at'])}"
    what = {name: schedule[name] for name in ("source", "destination", "amount")}
    return Claim.of(schedule["creator_id"], "scheduled run", occurrence, what)


def draft_of(schedule: Mapping[str, Any]) -> Draft:
    """The transfer of the next occurrence. Its reference is its own for ever, and so outlives the claim."""
    reference = schedule["reference"] or schedule["_id"]
    if schedule["rrule"] is not None:
        reference = f"{reference}:{schedule['runs'] + 1}"
    metadata = {**schedule["metadata"], "schedule_id": schedule["_id"]}
    return Draft(TRANSFER, schedule["amount"], schedule["source"], schedule["destination"], reference, schedule["memo"], metadata)


def decided_run(schedule: Mapping[str, Any], status: int, body: str, *, stored: bool = True) -> Run:
    """The next occurrence as the ledger has decided it."""
    answer = json.loads(body)
    claim, at = claim_of(schedule), schedule["next_run_at"]
    if status < 400:
        return Run(schedule["_id"], at, claim, transaction_id=answer["id"])
    return Run(schedule["_id"], at, claim, error=answer["code"], fence=None if stored else answer)


def refused_run(schedule: Mapping[str, Any], problem: Mapping[str, Any]) -> Run:
    """The next occurrence, refused before the ledger was asked."""
    return Run(schedule["_id"], schedule["next_run_at"], claim_of(schedule), error=problem["code"], fence=problem)


def progress(schedule: Mapping[str, Any], run: Run, now: datetime) -> Progress:
    """What `run` of the next occurrence makes of the schedule. COUNT counts the runs, and not what was skipped."""
    status = SUCCEEDED if run.error is None else FAILED
    rows = [_row(schedule, 1, run.at, now, status=status, transaction_id=run.transaction_id, error=run.error)]
    runs = schedule["runs"] + 1
    following = _following(schedule, runs, run.at)
    late = schedule["late"] + 1 if following is not None and following <= now else 0
    if following is not None and late > CATCH_UP:
        rows.append(_row(schedule, 2, following, now, status=SKIPPED, transaction_id=None, error=MISSED))
        following, late = _following(schedule, runs, now), 0
    fields = {"runs": runs, "logged": schedule["logged"] + len(rows), "late": late, "last_run": rows[0], "next_run_at": following}
    if following is None:
        fields["status"] = FAILED if schedule["rrule"] is None and status == FAILED else FINISHED
    return Progress(fields, rows)


def _following(schedule: Mapping[str, Any], runs: int, moment: datetime) -> datetime | None:
    if schedule["rrule"] is None:
        return None
    recurrence = Recurrence.parse(schedule["rrule"], schedule["run_at"])
    return None if recurrence.count is not None and runs >= recurrence.count else recurrence.next_after(moment)


def _row(schedule: Mapping[str, Any], number: int, at: datetime, now: datetime, **outcome: Any) -> dict[str, Any]:
    return {"_id": run_id(schedule["_id"], schedule["logged"] + number), "at": at, "ran_at": now, **outcome}


def run_id(schedule_id: str, number: int) -> str:
    """Runs are named by schedule and number: that makes the number unique, and a log one range of the index."""
    return f"{schedule_id}:{number:0{_RUN_DIGITS}d}"

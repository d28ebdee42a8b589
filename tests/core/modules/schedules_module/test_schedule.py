"""How a schedule goes on: run by run, with what was missed, to its end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from core.modules.schedules_module.schedule import CATCH_UP, claim_of, decided_run, draft_of, new_schedule, progress, refused_run
from tests.support.money import START
from tools.error_handling.errors import Unprocessable

DAY = timedelta(days=1)


def schedule(rrule: str | None = None, run_at: datetime = START, now: datetime = START, **more: Any) -> dict[str, Any]:
    wish = {"owner_id": "u_1", "creator_id": "u_1", "source": "w_1", "destination": "w_2", "amount": 5, "memo": None}
    return new_schedule({**wish, "reference": None, "metadata": {}, "run_at": run_at, "rrule": rrule, **more}, now)


def paid(known: dict[str, Any], now: datetime) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The schedule after a run that paid, and what was logged."""
    change = progress(known, decided_run(known, 201, '{"id": "tx_1"}'), now)
    return {**known, **change.fields}, change.rows


def test_once_is_finished_after_its_run_or_failed() -> None:
    known = schedule()
    done, rows = paid(known, START)
    assert (done["status"], done["next_run_at"], done["runs"]) == ("finished", None, 1)
    assert [(row["status"], row["transaction_id"], row["error"]) for row in rows] == [("succeeded", "tx_1", None)]
    change = progress(known, decided_run(known, 402, '{"code": "insufficient-funds"}'), START)
    assert (change.fields["status"], change.rows[0]["error"]) == ("failed", "insufficient-funds")


def test_a_rule_goes_on_after_a_refusal_and_ends_by_its_count() -> None:
    known = schedule("FREQ=DAILY;COUNT=2")
    change = progress(known, refused_run(known, {"code": "creator-inactive"}), START)
    known = {**known, **change.fields}
    assert (known["status"], known["next_run_at"], change.rows[0]["status"]) == ("active", START + DAY, "failed")
    known, _ = paid(known, START + DAY)
    assert (known["status"], known["runs"], known["next_run_at"]) == ("finished", 2, None)


def test_each_missed_run_is_made_up_for_in_order_up_to_a_bound_and_the_rest_is_skipped() -> None:
    known, now, due, logged = schedule("FREQ=DAILY"), START + (CATCH_UP + 50) * DAY, [], []
    while known["next_run_at"] <= now:
        due.append(known["next_run_at"])
        known, rows = paid(known, now)
        logged += rows
    assert due == [START + number * DAY for number in range(CATCH_UP + 1)]
    skipped = [row for row in logged if row["status"] == "skipped"]
    assert [(row["at"], row["error"]) for row in skipped] == [(START + (CATCH_UP + 1) * DAY, "missed")]
    assert known["next_run_at"] == now + DAY
    assert len({row["_id"] for row in logged}) == known["logged"] == CATCH_UP + 2
    assert (known["runs"], known["late"]) == (CATCH_UP + 1, 0)


def test_what_begins_in_the_past_is_refused_and_a_rule_that_began_there_goes_on_from_now() -> None:
    with pytest.raises(Unprocessable, match="run_at"):
        schedule(now=START + DAY)
    assert schedule(now=START + timedelta(seconds=30))["next_run_at"] == START
    assert schedule("FREQ=DAILY", now=START + 10.5 * DAY)["next_run_at"] == START + 11 * DAY
    with pytest.raises(Unprocessable, match="rrule"):
        schedule("FREQ=DAILY;UNTIL=20260102T000000Z", now=START + 10 * DAY)


def test_each_occurrence_has_a_key_and_a_reference_of_its_own_that_always_follow_from_it() -> None:
    known = schedule("FREQ=DAILY", reference="rent", metadata={"k": "v"})
    after, _ = paid(known, START)
    assert claim_of(known) == claim_of(dict(known)) != claim_of(after)
    assert [draft_of(each).reference for each in (known, after)] == ["rent:1", "rent:2"]
    assert draft_of(known).metadata == {"k": "v", "schedule_id": known["_id"]}
    once = schedule(reference="rent")
    assert draft_of(once).reference == "rent"
    assert draft_of(schedule()).reference is not None

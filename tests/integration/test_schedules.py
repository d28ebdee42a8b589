"""Scheduled transfers over HTTP: made, seen, run by the application itself, and cancelled."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from tests.support.accounts import with_role
from tests.support.at_once import at_once
from tests.support.client import Client, assert_problem, unique
from tests.support.polling import eventually
from utils.clock import rfc3339, utc_now

pytestmark = pytest.mark.usefixtures("sound_ledger")
FIELDS = {
    *("id", "source", "destination", "amount", "memo", "reference", "metadata", "run_at", "rrule"),
    *("next_run_at", "status", "runs", "last_run", "created_at"),
}


def at(seconds: float) -> str:
    return rfc3339(utc_now() + timedelta(seconds=seconds))


def wish(to: Client, **fields: Any) -> dict[str, Any]:
    return {"destination": {"username": to.user["username"]}, "amount": 5, "run_at": at(3600), **fields}


def test_a_transfer_at_a_time_happens_then(admin: Client, alice: Client, bob: Client) -> None:
    admin.grant(alice.wallet()["id"], 100)
    run_at = at(1)
    made = alice.post("/schedules", wish(bob, run_at=run_at, memo="thanks", reference="r-1", metadata={"k": 1}))
    assert set(made) == FIELDS
    assert (made["status"], made["runs"], made["last_run"], made["rrule"]) == ("active", 0, None, None)
    assert (made["source"], made["destination"]) == (alice.wallet()["id"], bob.wallet()["id"])
    assert made["next_run_at"] == made["run_at"] == run_at
    done = eventually(lambda: (s := alice.get(f"/schedules/{made['id']}"))["status"] != "active" and s, 15)
    assert (done["status"], done["runs"], done["next_run_at"]) == ("finished", 1, None)
    transaction = alice.get(f"/transactions/{done['last_run']['transaction_id']}")
    assert (transaction["type"], transaction["amount"], transaction["memo"]) == ("transfer", 5, "thanks")
    assert (transaction["reference"], transaction["metadata"]) == ("r-1", {"k": 1, "schedule_id": made["id"]})
    assert transaction["created_at"] >= run_at
    assert (alice.wallet()["settled"], bob.wallet()["settled"]) == (95, 5)
    assert alice.get(f"/schedules/{made['id']}/runs") == {"data": [done["last_run"]], "next_cursor": None}
    assert done["last_run"]["at"] == run_at


def test_a_rule_repeats_and_a_cancel_ends_it(admin: Client, alice: Client, bob: Client) -> None:
    admin.grant(alice.wallet()["id"], 100)
    made = alice.post("/schedules", wish(bob, run_at=at(0), rrule="FREQ=MINUTELY;COUNT=3"))
    path = f"/schedules/{made['id']}"
    done = eventually(lambda: (s := alice.get(path))["runs"] and s, 15)
    assert done["status"] == "active"
    assert datetime.fromisoformat(done["next_run_at"]) - datetime.fromisoformat(made["run_at"]) == timedelta(minutes=1)
    assert alice.get(f"/transactions/{done['last_run']['transaction_id']}")["reference"] == f"{made['id']}:1"
    assert [alice.call("DELETE", path).status_code for _ in range(2)] == [204, 204]
    ended = alice.get(path)
    assert (ended["status"], ended["next_run_at"], ended["runs"]) == ("cancelled", None, 1)


def test_a_run_without_funds_fails_with_its_code(alice: Client, bob: Client) -> None:
    made = alice.post("/schedules", wish(bob, run_at=at(0)))
    done = eventually(lambda: (s := alice.get(f"/schedules/{made['id']}"))["status"] != "active" and s, 15)
    assert (done["status"], done["last_run"]["status"], done["last_run"]["error"]) == ("failed", "failed", "insufficient-funds")


def test_a_request_is_safe_to_repeat_also_when_its_time_is_over(alice: Client, bob: Client) -> None:
    key, body = unique("key"), wish(bob, run_at=at(1))
    first = alice.call("POST", "/schedules", body, key=key)
    assert "Idempotency-Replayed" not in first.headers
    path = f"/schedules/{first.json()['id']}"
    eventually(lambda: alice.get(path)["status"] != "active", 15)
    again = alice.call("POST", "/schedules", body, key=key)
    assert (again.status_code, again.json(), again.headers["Idempotency-Replayed"]) == (201, first.json(), "true")
    assert_problem(alice.call("POST", "/schedules", {**body, "amount": 6}, key=key), 422, "idempotency-key-reused")
    assert_problem(alice.call("POST", "/schedules", body), 400, "idempotency-key-missing")
    assert len(alice.get("/schedules")["data"]) == 1


def test_twins_make_one_schedule(alice: Client, bob: Client) -> None:
    key, body = unique("key"), wish(bob)
    answers = at_once(4, lambda _: Client(alice.url, alice.token).call("POST", "/schedules", body, key=key))
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["id"] for answer in answers} == {row["id"] for row in alice.get("/schedules")["data"]}


def test_a_refusal_is_kept_for_a_repeat_too(alice: Client) -> None:
    key, body = unique("key"), {"destination": "w_nobody", "amount": 1, "run_at": at(3600)}
    for replayed in (False, True):
        answer = alice.call("POST", "/schedules", body, key=key)
        assert_problem(answer, 404, "not-found")
        assert ("Idempotency-Replayed" in answer.headers) == replayed


def test_a_dry_run_keeps_nothing(alice: Client, bob: Client) -> None:
    answer = alice.call("POST", "/schedules?dry_run=true", wish(bob), key=unique("key"))
    assert (answer.status_code, set(answer.json())) == (200, FIELDS)
    assert alice.get("/schedules")["data"] == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"run_at": None}, "run_at"),
        ({"run_at": "2020-01-01T00:00:00Z"}, "run_at"),
        ({"run_at": "soon"}, "run_at"),
        ({"rrule": "FREQ=SECONDLY"}, "rrule"),
        ({"rrule": "FREQ=DAILY;BYSECOND=" + ",".join(map(str, range(60)))}, "rrule"),
        ({"rrule": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"}, "rrule"),
        ({"rrule": "FREQ=DAILY;COUNT=999999999"}, "rrule"),
        ({"rrule": "FREQ=DAILY;INTERVAL=999999999"}, "rrule"),
        ({"rrule": "DTSTART;TZID=Europe/Berlin:20400101T000000\nRRULE:FREQ=DAILY"}, "rrule"),
        ({"rrule": "FREQ=DAILY;UNTIL=20200101T000000Z"}, "rrule"),
        ({"rrule": ""}, "rrule"),
        ({"rrule": "FREQ=DAILY;BYHOUR=" + ",".join(["1"] * 300)}, "rrule"),
        ({"amount": 0}, "amount"),
        ({"destination": "me"}, "destination"),
        ({"reference": "r" * 101}, "reference"),
        ({"start": "2040-01-01T00:00:00Z"}, "start"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_by_name(alice: Client, bob: Client, fields: dict[str, Any], field: str) -> None:
    answer = alice.call("POST", "/schedules", wish(bob, **fields), key=unique("key"))
    assert answer.status_code == 422, answer.text
    assert {error["field"] for error in answer.json()["errors"]} == {field}
    assert alice.get("/schedules")["data"] == []


def test_who_may_schedule_see_and_cancel_what(admin: Client, alice: Client, bob: Client) -> None:
    service, analyst = with_role(admin, "service"), with_role(admin, "analyst")
    source = alice.wallet()["id"]
    bob.refused("/schedules", wish(bob, source=source), 404, "not-found")
    bob.refused("/schedules", {**wish(bob), "destination": "system:revenue"}, 404, "not-found")
    analyst.refused("/schedules", wish(bob, source=source), 403, "forbidden")
    made = [alice.post("/schedules", wish(bob)), service.post("/schedules", wish(bob, source=source))]
    for each in made:
        path = f"/schedules/{each['id']}"
        assert alice.get(path) == service.get(path) == analyst.get(path) == each
        for method, target in (("GET", path), ("GET", f"{path}/runs"), ("DELETE", path)):
            assert_problem(bob.call(method, target), 404, "not-found")
        assert_problem(analyst.call("DELETE", path), 403, "forbidden")
    newest = [each["id"] for each in reversed(made)]
    assert [row["id"] for row in alice.get("/schedules")["data"]] == newest
    assert bob.get(f"/schedules?owner_id={alice.user['id']}")["data"] == []
    page = admin.get(f"/schedules?owner_id={alice.user['id']}&limit=1")
    rest = admin.get(f"/schedules?owner_id={alice.user['id']}&limit=1&cursor={page['next_cursor']}")
    assert [row["id"] for row in page["data"] + rest["data"]] == newest
    assert (len(page["data"]), rest["next_cursor"]) == (1, None)
    assert service.call("DELETE", f"/schedules/{newest[0]}").status_code == 204
    assert [row["id"] for row in alice.get("/schedules?status=cancelled")["data"]] == newest[:1]


def test_an_owner_has_so_many_active_schedules_and_no_more(database: Database[dict[str, Any]], alice: Client, bob: Client) -> None:
    first = alice.post("/schedules", wish(bob))
    stored = database["schedules"].find_one({"_id": first["id"]})
    assert stored is not None
    others = [place for place in range(100) if place != stored["place"]][:96]
    database["schedules"].insert_many([{**stored, "_id": unique("sch"), "place": place} for place in others])
    answers = at_once(6, lambda _: Client(alice.url, alice.token).call("POST", "/schedules", wish(bob), key=unique("key")))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 3
    alice.refused("/schedules", wish(bob), 409, "too-many-schedules")
    alice.call("DELETE", f"/schedules/{first['id']}")
    assert alice.post("/schedules", wish(bob))["status"] == "active"


def test_a_suspended_users_schedules_pay_nothing_and_an_erased_ones_end(admin: Client, alice: Client, bob: Client) -> None:
    admin.grant(alice.wallet()["id"], 100)
    made = alice.post("/schedules", wish(bob, run_at=at(1)))
    later = alice.post("/schedules", wish(bob))
    assert admin.call("PATCH", f"/users/{alice.user['id']}", {"status": "suspended"}).status_code == 200
    done = eventually(lambda: (s := admin.get(f"/schedules/{made['id']}"))["status"] != "active" and s, 15)
    assert done["last_run"]["error"] == "creator-inactive"
    assert admin.call("DELETE", f"/users/{alice.user['id']}").status_code == 204
    assert admin.get(f"/schedules/{later['id']}")["status"] == "cancelled"
    assert bob.wallet()["settled"] == 0


def test_what_an_erased_creator_has_scheduled_for_others_ends(admin: Client, alice: Client, bob: Client) -> None:
    service = with_role(admin, "service")
    theirs = service.post("/schedules", {**wish(bob), "source": alice.wallet()["id"]})
    own = alice.post("/schedules", wish(bob))
    assert admin.call("DELETE", f"/users/{service.user['id']}").status_code == 204
    assert [alice.get(f"/schedules/{each['id']}")["status"] for each in (theirs, own)] == ["cancelled", "active"]


def test_runs_are_kept_for_more_than_a_year_and_no_longer(database: Database[dict[str, Any]]) -> None:
    expiry = database["schedule_runs"].index_information()["expiry"]
    assert (expiry["key"], expiry["expireAfterSeconds"]) == ([("ran_at", 1)], 400 * 24 * 3600)


def test_runs_are_counted_by_outcome(server: Any, alice: Client, bob: Client) -> None:
    text = alice.http.get(f"{server.url}/metrics", timeout=10).text
    assert 'credit_schedule_runs_total{outcome="failed"}' in text
    assert "credit_schedule_lateness_seconds_bucket" in text

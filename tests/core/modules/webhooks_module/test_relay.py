"""What was committed becomes deliveries: all of it, once for each webhook that wants it, whoever crashes and however many relay."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from core import metrics
from core.lease import LeaseLost
from core.modules.schedules_module.schedule import SCHEDULE_FAILED
from core.modules.transactions_module import notices
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.ledger import REVENUE
from core.modules.transactions_module.operations import Capture, PlaceHold
from core.modules.transactions_module.repository import LedgerRepository
from core.modules.wallet_module.repository import WalletRepository
from core.modules.wallet_module.service import new_wallet
from core.modules.webhooks_module import events, outbox_repository, relay
from core.outbox import OUTBOX, Notice
from tests.core.modules.webhooks_module.conftest import World, alert
from tests.support.at_once import at_once
from tests.support.client import unique
from tests.support.money import command, debit, grant

NOBODY = "http://127.0.0.1:9/"


def told(world: World, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(row["body"]) for row in world.of(webhook)]


def unrelayed(world: World) -> int:
    return world.stored[OUTBOX].count_documents({"relayed_at": None})


def test_every_event_becomes_a_delivery_for_each_webhook_that_wants_it(world: World) -> None:
    everything, alerts, holds = world.webhook(NOBODY, "*"), world.webhook(NOBODY, "alert.crossed"), world.webhook(NOBODY, "hold.*")
    first = world.happen(alert("a_1"), Notice("hold.created", "h_1", {"hold": {"id": "h_1"}}))
    world.later(seconds=1)
    second = world.happen(alert("a_2"))
    assert world.relay().tick() == 6
    assert [(each["id"], each["type"]) for each in told(world, everything)] == [
        (f"ev_{first}_0", "alert.crossed"),
        (f"ev_{first}_1", "hold.created"),
        (f"ev_{second}_0", "alert.crossed"),
    ]
    assert [each["data"]["alert_id"] for each in told(world, alerts)] == ["a_1", "a_2"]
    assert [each["data"] for each in told(world, holds)] == [{"hold": {"id": "h_1"}}]
    assert unrelayed(world) == 0
    assert world.relay().tick() == 0


def test_what_happened_before_a_webhook_was_made_is_not_told(world: World) -> None:
    world.happen(alert())
    assert world.relay().tick() == 0
    assert unrelayed(world) == 0
    webhook = world.webhook(NOBODY)
    assert world.relay().tick() == 0
    assert world.of(webhook) == []


def test_a_disabled_webhook_is_told_nothing(world: World) -> None:
    webhook = world.webhook(NOBODY)
    world.webhooks.disable([webhook["id"]], "failing")
    world.happen(alert())
    assert world.relay().tick() == 0
    assert world.of(webhook) == []


def test_records_are_told_as_they_were_when_it_happened(world: World) -> None:
    ledger = LedgerRepository(world.database, WalletRepository(world.database))
    engine = PostingEngine(ledger, batch_max=256, queue_max=256, commit_seconds=5, on_commit=lambda outcome: None)
    engine.start()
    try:
        webhook = world.webhook(NOBODY)
        wallet = new_wallet(unique("u"), "CREDIT")
        world.database.insert_one("wallets", wallet)
        engine.submit(command(grant(wallet["_id"], 100)))
        engine.submit(command(debit(wallet["_id"], 30)))
        held = json.loads(engine.submit(command(PlaceHold(wallet["_id"], 20, 900, None))).body)
        engine.submit(command(Capture(held["id"], 5, False, REVENUE)))
    finally:
        engine.stop()
    world.relay().tick()
    by_type: dict[str, list[Any]] = {}
    for each in told(world, webhook):
        by_type.setdefault(each["type"], []).append(each["data"])
    posted = [data["transaction"] for data in by_type["transaction.posted"]]
    assert [(each["type"], each["amount"]) for each in posted] == [("grant", 100), ("debit", 30), ("capture", 5)]
    mine = [entry for entry in posted[1]["entries"] if entry["wallet_id"] == wallet["_id"]]
    assert [(entry["delta"], entry["balance_after"], entry["held_after"]) for entry in mine] == [(-30, 70, 0)]
    [granted] = by_type["grant.created"]
    assert (granted["grant"]["amount"], granted["grant"]["remaining"], granted["grant"]["status"]) == (100, 100, "active")
    assert [data["hold"]["remaining"] for data in (*by_type["hold.created"], *by_type["hold.captured"])] == [20, 15]


def test_every_type_that_somebody_writes_can_be_subscribed_to() -> None:
    written = {value for name, value in vars(notices).items() if name.isupper() and isinstance(value, str) and "." in value}
    assert written | {SCHEDULE_FAILED} == set(events.EVENT_TYPES)


def test_a_document_with_many_events_is_told_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_EVENTS_AT_ONCE", 3)
    monkeypatch.setattr(outbox_repository, "_ROWS_AT_ONCE", 2)
    webhook = world.webhook(NOBODY)
    world.happen(alert("a_0"))
    world.happen(*(alert(f"a_{index}") for index in range(1, 9)))
    world.happen(alert("a_9"))
    assert world.relay().tick() == 10
    assert [each["data"]["alert_id"] for each in told(world, webhook)] == [f"a_{index}" for index in range(10)]
    assert len({each["id"] for each in told(world, webhook)}) == 10
    assert unrelayed(world) == 0


def test_two_relays_at_the_same_time_tell_it_once(world: World) -> None:
    webhook = world.webhook(NOBODY)
    for index in range(40):
        world.happen(alert(f"a_{index}"))
    relays = [world.relay() for _ in range(4)]
    at_once(4, lambda index: relays[index].tick())
    assert sorted(each["data"]["alert_id"] for each in told(world, webhook)) == sorted(f"a_{index}" for index in range(40))


def test_who_lost_the_lease_while_working_writes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paused for longer than the lease: another one has it, and has told everything."""
    webhook, slow, other = world.webhook(NOBODY), world.relay(), world.relay()
    world.happen(alert())
    subscriptions = world.outbox.subscriptions

    def stolen(session: Any) -> Any:
        monkeypatch.setattr(world.outbox, "subscriptions", subscriptions)
        read = subscriptions(session)
        world.stored["leases"].update_one({"_id": world.lease_name}, {"$currentDate": {"expires_at": True}})
        assert other.tick() == 1
        return read

    monkeypatch.setattr(world.outbox, "subscriptions", stolen)
    with pytest.raises(LeaseLost):
        slow.tick()
    assert len(world.of(webhook)) == 1


class Killed(BaseException):
    """What kill -9 leaves to be done: nothing."""


@pytest.mark.parametrize("step", ["subscriptions", "take", "complete", "save", "after save", "lease"])
def test_who_dies_in_between_has_done_nothing_and_another_one_goes_on(world: World, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook, first = world.webhook(NOBODY), world.relay()
    world.happen(alert("a_1"), alert("a_2"))

    def die(*_: Any) -> None:
        if step == "after save":
            save(*_)
        raise Killed

    save = world.outbox.save
    if step == "lease":
        monkeypatch.setattr(first._lease, "fence", die)
    else:
        monkeypatch.setattr(world.outbox, step.rpartition(" ")[2], die)
    with pytest.raises(Killed):
        first.tick()
    monkeypatch.undo()
    assert (len(world.of(webhook)), unrelayed(world)) == (0, 1)
    second = world.relay()
    assert second.tick() == 0, "the dead one's lease has not ended"
    world.stored["leases"].update_one({"_id": world.lease_name}, {"$currentDate": {"expires_at": True}})
    assert second.tick() == 2
    assert [each["data"]["alert_id"] for each in told(world, webhook)] == ["a_1", "a_2"]


def test_the_backlog_is_the_age_of_the_oldest_that_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_ROUNDS", 1)
    monkeypatch.setattr(relay, "_EVENTS_AT_ONCE", 1)
    world.webhook(NOBODY)
    world.happen(alert("a_1"))
    world.later(seconds=30)
    world.happen(alert("a_2"))
    world.later(seconds=12)
    one = world.relay()
    one.tick()
    assert metrics.WEBHOOK_BACKLOG._value.get() == pytest.approx(12)
    one.tick()
    assert metrics.WEBHOOK_BACKLOG._value.get() == 0


def test_deliveries_go_by_themselves_after_thirty_days(world: World) -> None:
    [delivery] = world.of(world.tell(NOBODY))
    assert delivery["expires_at"] - delivery["created_at"] == timedelta(days=30)
    expiry = next(index for index in world.stored["webhook_deliveries"].list_indexes() if index["name"] == "expiry")
    assert (dict(expiry["key"]), expiry["expireAfterSeconds"]) == ({"expires_at": 1}, 0)

"""What is due is sent, signed, and tried again when it may help; a slow or dead receiver is nobody else's trouble."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from datetime import timedelta
from typing import Any

import pytest

from core import metrics
from core.modules.webhooks_module import deliverer as deliverer_module
from core.outbox import Notice
from tests.core.modules.webhooks_module.conftest import World, alert
from tests.support.http_services import HttpServer, Received
from tests.support.polling import eventually

TRIES = 15


def verified(request: Received, secret: str, now: int, tolerance: int = 300) -> bool:
    """As docs/webhooks.md tells receivers to."""
    timestamp = request.headers["X-Credit-Timestamp"]
    expected = hmac.new(secret.encode(), f"{timestamp}.".encode() + request.body, hashlib.sha256).hexdigest()
    fresh = abs(now - int(timestamp)) <= tolerance
    return fresh and hmac.compare_digest(request.headers["X-Credit-Signature"], f"v1={expected}")


def attempts(world: World, webhook: dict[str, Any]) -> list[tuple[int | None, str | None]]:
    [delivery] = world.of(webhook)
    return [(attempt["status_code"], attempt["error"]) for attempt in delivery["attempts"]]


def status(world: World, webhook: dict[str, Any]) -> str:
    [delivery] = world.of(webhook)
    return str(delivery["status"])


def test_a_receiver_can_tell_that_a_delivery_is_ours_whole_and_of_now(world: World, receiver: HttpServer) -> None:
    webhook = world.tell(f"{receiver.url}/hook?token=t", Notice("alert.crossed", "a_1", {"name": "Zoë"}))
    world.deliver(world.deliverer())
    [request] = receiver.received
    now = int(world.now.timestamp())
    assert verified(request, webhook["secret"], now)
    assert not verified(request, "whsec_other", now)
    assert not verified(request, webhook["secret"], now + 301)
    assert not verified(Received(request.path, request.headers, request.body + b" "), webhook["secret"], now)
    told = json.loads(request.body)
    assert (told["type"], told["data"]) == ("alert.crossed", {"name": "Zoë"})
    assert request.path == "/hook?token=t"
    names = {name: request.headers[f"X-Credit-{name}"] for name in ("Event-Id", "Event-Type", "Delivery-Id")}
    [delivery] = world.of(webhook)
    assert names == {"Event-Id": told["id"], "Event-Type": "alert.crossed", "Delivery-Id": delivery["_id"]}
    assert request.headers["Content-Type"] == "application/json"
    assert (delivery["status"], attempts(world, webhook)) == ("delivered", [(200, None)])


def test_what_may_pass_is_tried_fifteen_times_and_later_each_time(world: World, receiver: HttpServer) -> None:
    webhook, deliverer = world.tell(f"{receiver.url}/status/503"), world.deliverer()
    pauses = []
    for tried in range(1, TRIES + 1):
        world.deliver(deliverer)
        assert len(receiver.received) == tried
        [delivery] = world.of(webhook)
        if tried == TRIES:
            break
        assert delivery["status"] == "pending"
        pauses.append((delivery["next_attempt_at"] - world.now).total_seconds())
        # Not a second earlier.
        world.later(seconds=pauses[-1] - 1)
        world.deliver(deliverer)
        assert len(receiver.received) == tried
        world.later(seconds=1)
    assert (delivery["status"], "next_attempt_at" in delivery, "queue" in delivery) == ("failed", False, False)
    assert attempts(world, webhook) == [(503, None)] * TRIES
    # The receiver says Retry-After: 0, and the shortest pause is a minute.
    assert pauses == [60.0] * (TRIES - 1)
    world.later(days=2)
    world.deliver(deliverer)
    assert len(receiver.received) == TRIES


@pytest.mark.parametrize("code", [400, 401, 404, 410, 422, 301, 302, 307])
def test_what_will_not_pass_is_final_and_nobody_is_led_elsewhere(world: World, receiver: HttpServer, code: int) -> None:
    webhook = world.tell(f"{receiver.url}/status/{code}")
    world.deliver(world.deliverer())
    assert (status(world, webhook), attempts(world, webhook)) == ("failed", [(code, None)])
    assert len(receiver.received) == 1


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_what_may_pass_arrives_when_the_receiver_is_well_again(world: World, receiver: HttpServer, code: int) -> None:
    webhook, deliverer = world.tell(f"{receiver.url}/status/{code}"), world.deliverer()
    world.deliver(deliverer)
    assert status(world, webhook) == "pending"
    world.webhooks.change(webhook["id"], {"url": f"{receiver.url}/well"})
    world.later(minutes=1)
    world.deliver(deliverer)
    assert (status(world, webhook), attempts(world, webhook)) == ("delivered", [(code, None), (200, None)])
    first, second = receiver.received
    assert first.body == second.body
    assert first.headers["X-Credit-Event-Id"] == second.headers["X-Credit-Event-Id"]
    assert first.headers["X-Credit-Signature"] != second.headers["X-Credit-Signature"]


@pytest.mark.parametrize("path", ["closing", "slow"])
def test_a_receiver_that_does_not_answer_is_tried_again(world: World, receiver: HttpServer, path: str) -> None:
    webhook, deliverer = world.tell(f"{receiver.url}/{path}"), world.deliverer(seconds=0.3)
    world.deliver(deliverer)
    [(code, error)] = attempts(world, webhook)
    assert (code, error) == (None, {"closing": "protocol", "slow": "timeout"}[path])
    assert status(world, webhook) == "pending"


@pytest.mark.parametrize("path", ["huge", "drip", "half"])
def test_what_a_receiver_says_is_not_waited_for_nor_kept(world: World, receiver: HttpServer, path: str) -> None:
    webhook = world.tell(f"{receiver.url}/{path}")
    world.deliver(world.deliverer(seconds=0.5))
    [delivery] = world.of(webhook)
    assert (delivery["status"], attempts(world, webhook)) == ("delivered", [(200, None)])
    assert set(delivery["attempts"][0]) == {"at", "status_code", "error", "duration_ms"}


def test_a_slow_receiver_does_not_hold_up_the_others(world: World, receiver: HttpServer) -> None:
    slow, quick = world.webhook(f"{receiver.url}/slow"), world.webhook(f"{receiver.url}/quick")
    world.happen(*(alert(f"a_{index}") for index in range(50)))
    world.relay_all()
    deliverer = world.deliverer(at_once=16, seconds=30)

    def all_quick_ones_arrived() -> bool:
        deliverer.tick()
        return all(delivery["status"] == "delivered" for delivery in world.of(quick))

    eventually(all_quick_ones_arrived, 10)
    assert all(delivery["status"] == "pending" for delivery in world.of(slow))
    assert receiver.waiting == 8, "so many at the most for one webhook"
    assert deliverer.underway == 8


def test_one_to_which_nothing_arrives_has_a_single_place(world: World, receiver: HttpServer) -> None:
    webhook = world.tell(f"{receiver.url}/status/500")
    deliverer = world.deliverer(seconds=30)
    world.deliver(deliverer)
    world.webhooks.change(webhook["id"], {"url": f"{receiver.url}/slow"})
    world.happen(*(alert(f"a_{index}") for index in range(10)))
    world.relay_all()
    deliverer.tick()
    eventually(lambda: receiver.waiting == 1, 5)
    deliverer.tick()
    assert deliverer.underway == 1


def test_two_workers_share_what_is_due(world: World, receiver: HttpServer) -> None:
    webhook = world.webhook(f"{receiver.url}/hook")
    world.happen(*(alert(f"a_{index}") for index in range(60)))
    world.relay_all()
    workers = [world.deliverer(), world.deliverer()]

    def work(worker: Any) -> None:
        for _ in range(60):
            world.deliver(worker)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {delivery["status"] for delivery in world.of(webhook)} == {"delivered"}
    sent = [request.headers["X-Credit-Delivery-Id"] for request in receiver.received]
    assert len(sent) == len(set(sent)) == 60


def test_what_a_dead_worker_has_claimed_is_only_late(world: World, receiver: HttpServer) -> None:
    webhook = world.tell(f"{receiver.url}/hook")
    [delivery] = world.of(webhook)
    assert len(world.deliveries.claim([delivery["_id"]], world.now, world.now + timedelta(seconds=90))) == 1
    assert world.deliveries.claim([delivery["_id"]], world.now, world.now + timedelta(seconds=90)) == [], "nobody else gets it"
    survivor = world.deliverer()
    world.later(seconds=89)
    world.deliver(survivor)
    assert receiver.received == []
    world.later(seconds=1)
    world.deliver(survivor)
    assert (status(world, webhook), len(receiver.received)) == ("delivered", 1)


def test_who_was_late_does_not_overwrite_what_another_worker_found(world: World, receiver: HttpServer) -> None:
    webhook, late, other = world.tell(f"{receiver.url}/slow"), world.deliverer(seconds=30), world.deliverer()
    late.tick()
    eventually(lambda: receiver.waiting == 1, 5)
    world.later(seconds=91)
    world.webhooks.change(webhook["id"], {"url": f"{receiver.url}/hook"})
    world.deliver(other)
    assert status(world, webhook) == "delivered"
    receiver.released.set()
    eventually(lambda: late.underway == 0, 5)
    late.tick()
    assert (status(world, webhook), attempts(world, webhook)) == ("delivered", [(200, None)])


def test_stopping_breaks_off_what_is_on_its_way_and_leaves_it_due(world: World, receiver: HttpServer) -> None:
    webhook, deliverer = world.tell(f"{receiver.url}/slow"), world.deliverer(seconds=30)
    before = set(threading.enumerate())
    deliverer.start()
    deliverer.wake()
    eventually(lambda: receiver.waiting == 1, 5)
    deliverer.stop()
    assert receiver.waiting == 1, "it is not the receiver who has ended it"
    deliverer.stop()
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in left if name.startswith("webhook")}
    [delivery] = world.of(webhook)
    assert (delivery["status"], delivery["attempts"], delivery["next_attempt_at"]) == ("pending", [], world.now)


def failing(world: World, receiver: HttpServer, deliveries: int) -> tuple[dict[str, Any], Any]:
    webhook, deliverer = world.webhook(f"{receiver.url}/status/404"), world.deliverer()
    for _ in range(deliveries):
        world.happen(alert())
        world.relay_all()
        world.deliver(deliverer)
    return webhook, deliverer


def test_a_webhook_that_fails_for_long_is_disabled_and_says_so(world: World, receiver: HttpServer) -> None:
    counted = metrics.WEBHOOKS_DISABLED.labels("failing")._value.get()
    webhook, deliverer = failing(world, receiver, 6)
    since = world.now
    standing = world.standing(webhook)
    assert (standing["status"], standing["disabled_reason"]) == ("active", None), "it has not been long"
    assert standing["failing_since"] is not None
    world.later(hours=24)
    world.happen(alert(), alert())
    world.relay_all()
    world.deliver(deliverer)
    standing = world.standing(webhook)
    assert (standing["status"], standing["disabled_reason"]) == ("disabled", "failing")
    assert standing["failing_since"] == since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert metrics.WEBHOOKS_DISABLED.labels("failing")._value.get() == counted + 1
    [audit] = world.stored["audit_logs"].find({"action": "webhooks.disable", "target": webhook["id"]})
    assert audit["created_at"]
    # What still waited for it ends, too, and nothing more is sent.
    world.deliver(deliverer)
    assert "pending" not in {delivery["status"] for delivery in world.of(webhook)}
    sent = len(receiver.received)
    world.later(days=1)
    world.deliver(deliverer)
    assert len(receiver.received) == sent


def test_one_success_forgives_all_failures(world: World, receiver: HttpServer) -> None:
    webhook, deliverer = failing(world, receiver, 6)
    world.webhooks.change(webhook["id"], {"url": f"{receiver.url}/well"})
    world.happen(alert())
    world.relay_all()
    world.later(hours=25)
    world.deliver(deliverer)
    assert (world.standing(webhook)["status"], world.standing(webhook)["failing_since"]) == ("active", None)


def test_few_failures_far_apart_do_not_disable(world: World, receiver: HttpServer) -> None:
    webhook, deliverer = failing(world, receiver, 2)
    world.later(days=3)
    world.happen(alert())
    world.relay_all()
    world.deliver(deliverer)
    assert world.standing(webhook)["status"] == "active"


def test_nothing_is_sent_for_an_owner_who_may_have_no_webhooks_any_more(world: World, receiver: HttpServer) -> None:
    webhook = world.tell(f"{receiver.url}/hook")
    world.gone.add(world.owner.user_id)
    world.deliver(world.deliverer())
    assert receiver.received == []
    assert (world.standing(webhook)["status"], world.standing(webhook)["disabled_reason"]) == ("disabled", "owner-gone")
    assert status(world, webhook) == "cancelled"


def test_what_waits_for_a_deleted_webhook_is_cancelled(world: World, receiver: HttpServer) -> None:
    webhook = world.tell(f"{receiver.url}/hook")
    world.service.remove(world.owner, webhook["id"])
    world.deliver(world.deliverer())
    assert (receiver.received, status(world, webhook)) == ([], "cancelled")


def test_every_attempt_is_counted_by_its_outcome(world: World, receiver: HttpServer) -> None:
    def counted() -> list[float]:
        return [metrics.WEBHOOK_ATTEMPTS.labels(outcome)._value.get() for outcome in ("delivered", "retried", "failed")]

    before = counted()
    for path in ("well", "status/503", "status/503", "status/404"):
        world.webhook(f"{receiver.url}/{path}")
    world.happen(alert())
    world.relay_all()
    world.deliver(world.deliverer())
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 2, 1]


def test_finding_what_is_due_looks_at_one_key_for_each_webhook_however_much_waits(world: World) -> None:
    for name in ("a", "b", "c"):
        rows = [{"_id": f"{name}{index}", "queue": name, "next_attempt_at": world.now, "status": "pending"} for index in range(500)]
        world.stored["webhook_deliveries"].insert_many(rows)
    seen: list[Any] = []
    on_collection = world.database.on_collection

    class Explaining:
        def __init__(self, driver: Any) -> None:
            self._driver = driver

        def aggregate(self, stages: list[Any]) -> Any:
            pipeline = {"aggregate": self._driver.name, "pipeline": stages, "cursor": {}}
            seen.append(world.stored.command({"explain": pipeline, "verbosity": "executionStats"}))
            return self._driver.aggregate(stages)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.database, "on_collection", lambda name, work: on_collection(name, lambda driver: work(Explaining(driver))))
        due = world.deliveries.due(world.now, ["b"], 10, 4)
    assert {name: len(ids) for name, ids in due.items()} == {"a": 4, "c": 4}
    assert seen[0]["stages"][0]["$cursor"]["executionStats"]["totalKeysExamined"] <= 6


def test_the_places_of_a_worker_go_round() -> None:
    due = {"a": ["a1", "a2", "a3"], "b": ["b1"], "c": ["c1", "c2"]}
    webhooks: dict[str, dict[str, Any]] = {"a": {"failing_since": None}, "b": {"failing_since": None}, "c": {"failing_since": 1}}
    assert list(deliverer_module._in_turn(due, webhooks, deliverer_module.Counter({"a": 6}))) == ["a1", "b1", "c1", "a2"]

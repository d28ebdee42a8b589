"""Who may have, see and change webhooks; what lies in the database of them; and replays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.modules.webhooks_module import service as service_module
from core.modules.webhooks_module.schemas import DeliveriesQuery, WebhookBody, WebhookPatch
from core.web.models import PageQuery
from core.web.routing import Principal
from tests.core.modules.webhooks_module.conftest import World, alert
from tests.support.at_once import at_once
from tests.support.client import unique
from tests.support.http_services import HttpServer
from tests.support.logs import logging_to
from tools.error_handling.errors import AppError, Conflict, NotFound, Unprocessable

URL = "http://127.0.0.1:9/hook?token=url-token-0815"
OTHER, ADMIN = Principal("u_other", "service", "s_2"), Principal("u_admin", "admin", "s_3")


def body(*events: str, url: str = URL) -> WebhookBody:
    return WebhookBody(url=url, events=list(events or ("*",)))


def test_the_secret_is_seen_once(world: World) -> None:
    made = world.webhook(URL, "hold.*", "transaction.posted")
    assert made["secret"].startswith("whsec_")
    assert len(made["secret"]) > 40
    assert world.service.get(world.owner, made["id"]) == {key: value for key, value in made.items() if key != "secret"}
    answers = [world.service.page(world.owner, PageQuery()), world.service.change(world.owner, made["id"], WebhookPatch(description="x"))]
    assert made["secret"] not in json.dumps(answers)
    assert world.webhook(URL)["secret"] != made["secret"]


def test_secret_and_url_are_unreadable_in_the_database_and_found_by_a_rotation(world: World) -> None:
    made = world.webhook(URL)
    row = world.stored["webhooks"].find_one({"_id": made["id"]})
    assert row is not None
    assert made["secret"].encode() not in repr(row).encode()
    assert b"url-token" not in repr(row).encode()
    assert set(world.database.field_rules["webhooks"].sealed) == {"url", "secret"}
    [active] = world.webhooks.active([made["id"]])
    assert (active["secret"], active["url"]) == (made["secret"], URL)


def test_a_service_sees_and_changes_its_own_and_an_admin_all(world: World, receiver: HttpServer) -> None:
    webhook = world.tell(f"{receiver.url}/hook")
    [delivery] = world.of(webhook)
    for allowed in (world.owner, ADMIN):
        assert world.service.get(allowed, webhook["id"])["id"] == webhook["id"]
        assert [row["id"] for row in world.service.page(allowed, PageQuery())["data"]] == [webhook["id"]]
        assert len(world.service.deliveries(allowed, webhook["id"], DeliveriesQuery())["data"]) == 1
    assert world.service.page(OTHER, PageQuery())["data"] == []
    for forbidden in (
        lambda: world.service.get(OTHER, webhook["id"]),
        lambda: world.service.change(OTHER, webhook["id"], WebhookPatch(status="disabled")),
        lambda: world.service.remove(OTHER, webhook["id"]),
        lambda: world.service.deliveries(OTHER, webhook["id"], DeliveriesQuery()),
        lambda: world.service.replay(OTHER, webhook["id"], delivery["_id"]),
    ):
        with pytest.raises(NotFound):
            forbidden()
    world.service.remove(ADMIN, webhook["id"])
    with pytest.raises(NotFound):
        world.service.get(world.owner, webhook["id"])


@pytest.mark.parametrize("wrong", ["no.such", "hold", "nothing.*", "*.*", "hold.created ", "$ne"])
def test_unknown_events_are_refused_by_name_of_the_field(world: World, wrong: str) -> None:
    with pytest.raises(Unprocessable) as refusal:
        world.service.create(world.owner, body("hold.created", wrong))
    assert [error["field"] for error in refusal.value.extra["errors"]] == ["events"]
    assert world.service.page(world.owner, PageQuery())["data"] == []


def test_a_url_that_may_not_be_used_is_refused_without_being_repeated(world: World) -> None:
    made = world.webhook(URL)
    for refused in (
        lambda: world.service.create(world.owner, body(url="http://169.254.169.254/latest?token=t-4711")),
        lambda: world.service.change(world.owner, made["id"], WebhookPatch(url="http://169.254.169.254/latest?token=t-4711")),
    ):
        with pytest.raises(Unprocessable) as refusal:
            refused()
        assert [error["field"] for error in refusal.value.extra["errors"]] == ["url"]
        assert "4711" not in json.dumps(refusal.value.problem())


def test_an_owner_has_only_so_many_also_when_several_are_made_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "WEBHOOKS_PER_OWNER", 3)

    def make(_: int) -> str:
        try:
            return str(world.service.create(world.owner, body())["id"])
        except Conflict as error:
            return error.code

    made = at_once(6, make)
    assert made.count("too-many-webhooks") == 3
    assert len(world.service.page(world.owner, PageQuery())["data"]) == 3
    world.service.create(ADMIN, body())


def test_pages_go_through_all_webhooks_newest_first(world: World) -> None:
    made = [world.webhook(URL)["id"] for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page = world.service.page(world.owner, PageQuery(limit=2, cursor=cursor))
        seen += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(made, reverse=True)


def test_the_log_of_deliveries_is_paged_and_filtered_by_status(world: World, receiver: HttpServer) -> None:
    webhook = world.tell(f"{receiver.url}/status/404")
    world.deliver(world.deliverer())
    world.happen(*(alert(f"a_{index}") for index in range(4)))
    world.relay_all()
    failed = world.service.deliveries(world.owner, webhook["id"], DeliveriesQuery(status="failed"))["data"]
    assert [(row["status"], row["event_type"], row["next_attempt_at"]) for row in failed] == [("failed", "alert.crossed", None)]
    [attempt] = failed[0]["attempts"]
    assert (attempt["status_code"], attempt["error"]) == (404, None)
    assert attempt["duration_ms"] >= 0
    first = world.service.deliveries(world.owner, webhook["id"], DeliveriesQuery(limit=3))
    rest = world.service.deliveries(world.owner, webhook["id"], DeliveriesQuery(limit=3, cursor=first["next_cursor"]))
    ids = [row["id"] for row in (*first["data"], *rest["data"])]
    assert ids == sorted((row["_id"] for row in world.of(webhook)), reverse=True)
    assert rest["next_cursor"] is None
    pending = world.service.deliveries(world.owner, webhook["id"], DeliveriesQuery(status="pending"))["data"]
    assert len(pending) == 4
    assert all(row["next_attempt_at"] for row in pending)
    with pytest.raises(AppError):
        world.service.deliveries(world.owner, webhook["id"], DeliveriesQuery(status="failed", cursor=first["next_cursor"]))


def test_a_replay_is_the_same_event_with_a_signature_of_now(world: World, receiver: HttpServer) -> None:
    webhook, deliverer = world.tell(f"{receiver.url}/hook"), world.deliverer()
    world.deliver(deliverer)
    [delivery] = world.of(webhook)
    world.later(hours=3)
    again = world.service.replay(world.owner, webhook["id"], delivery["_id"])
    assert (again["status"], again["replay_of"], again["event_id"]) == ("pending", delivery["_id"], delivery["event_id"])
    world.deliver(deliverer)
    first, second = receiver.received
    assert first.body == second.body
    assert first.headers["X-Credit-Event-Id"] == second.headers["X-Credit-Event-Id"]
    assert first.headers["X-Credit-Delivery-Id"] != second.headers["X-Credit-Delivery-Id"]
    assert int(second.headers["X-Credit-Timestamp"]) - int(first.headers["X-Credit-Timestamp"]) == 3 * 3600
    assert first.headers["X-Credit-Signature"] != second.headers["X-Credit-Signature"]
    assert [row["status"] for row in world.of(webhook)] == ["delivered", "delivered"]


def test_only_what_was_for_this_webhook_is_replayed_and_not_while_it_is_disabled(world: World, receiver: HttpServer) -> None:
    webhook = world.tell(f"{receiver.url}/hook")
    other = world.webhook(f"{receiver.url}/other")
    [delivery] = world.of(webhook)
    for webhook_id, delivery_id in ((other["id"], delivery["_id"]), (webhook["id"], "wd_x"), ("wh_x", delivery["_id"])):
        with pytest.raises(NotFound):
            world.service.replay(world.owner, webhook_id, delivery_id)
    world.service.change(world.owner, webhook["id"], WebhookPatch(status="disabled"))
    with pytest.raises(Conflict) as refusal:
        world.service.replay(world.owner, webhook["id"], delivery["_id"])
    assert refusal.value.code == "webhook-disabled"


def test_a_disabled_webhook_can_be_started_again_with_a_clean_slate(world: World) -> None:
    webhook = world.webhook(URL)
    world.webhooks.change(webhook["id"], {"status": "disabled", "disabled_reason": "failing", "failing_since": world.now, "given_up": 9})
    view = world.service.change(world.owner, webhook["id"], WebhookPatch(status="active"))
    assert (view["status"], view["disabled_reason"], view["failing_since"]) == ("active", None, None)
    [row] = world.webhooks.active([webhook["id"]])
    assert (row["given_up"], row["secret"]) == (0, webhook["secret"])


def test_a_change_says_something() -> None:
    with pytest.raises(ValueError, match="give url, events, description or status"):
        WebhookPatch()


def test_of_who_leaves_neither_url_nor_secret_stays(world: World) -> None:
    webhook = world.webhook(URL)
    world.webhooks.transaction(lambda session: world.service.forget_owner(world.owner.user_id, session))
    row: Any = world.stored["webhooks"].find_one({"_id": webhook["id"]})
    assert not {"url", "secret", "description"} & set(row)
    view = world.service.get(ADMIN, webhook["id"])
    assert (view["url"], view["status"], view["disabled_reason"]) == (None, "disabled", "owner-gone")
    world.happen(alert())
    assert world.relay().tick() == 0


def test_no_log_line_holds_a_url_or_a_secret(world: World, receiver: HttpServer, tmp_path: Path) -> None:
    token = unique("token")
    with logging_to(tmp_path, level="DEBUG") as logs:
        webhook = world.webhook(f"{receiver.url}/status/404?token={token}")
        for _ in range(6):
            world.happen(alert())
            world.relay_all()
            world.deliver(world.deliverer())
        world.later(days=2)
        world.happen(alert())
        world.relay_all()
        world.deliver(world.deliverer())
        text = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert any(line["message"] == "a webhook is disabled" and line["webhook"] == webhook["id"] for line in logs.lines())
    assert token not in text
    assert webhook["secret"] not in text

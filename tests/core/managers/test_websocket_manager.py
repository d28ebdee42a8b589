"""Socket events as data, without sockets: their limits, and that each name is there once."""

from __future__ import annotations

import time
from typing import Any

import pytest

from core.contracts import Identifier
from core.managers.websocket_manager import WebSocketManager
from core.web.models import Body
from core.web.routing import ADMINS, Principal
from core.web.socket_events import Event
from tests.core.conftest import Factory
from tests.support.client import unique


class Payload(Body):
    text: str


@pytest.fixture(scope="module")
def managers(app_manager_factory: Factory) -> Any:
    return app_manager_factory("database", "redis", "jwt", "rate_limiter", "hooks", "websocket", RATE_LIMIT_MONEY="2/3600")


def send(manager: WebSocketManager, event: Event, user_id: str, payload: Any) -> dict[str, Any]:
    """The ack of `event`, sent by a socket of `user_id`."""
    manager._table.open(user_id, Principal(user_id, "user", "s"), time.time() + 60, "203.0.113.9")
    manager._events[event.name] = event
    try:
        return manager._receive(event.name, user_id, payload)
    finally:
        manager._table.close(user_id)
        manager.unregister_event(event.name)


def test_an_event_with_a_limit_counts_against_that_policy_too(managers: Any) -> None:
    manager: WebSocketManager = managers.websocket_manager
    event = Event("shop:buy", Payload, lambda connection, body: {"bought": body.text}, limit="money")
    user_id = unique("user")
    assert [send(manager, event, user_id, {"text": "x"})["ok"] for _ in range(3)] == [True, True, False]
    refused = send(manager, event, user_id, {"text": "x"})
    assert refused["error"]["code"] == "rate-limited"
    assert managers.rate_limiter_manager.get_limits(Identifier("user", user_id))["violations"] == 2
    free = Event("shop:look", Payload, lambda connection, body: {})
    assert send(manager, free, user_id, {"text": "x"})["ok"]


def test_roles_and_payload_are_checked_and_the_ack_says_what_is_wrong(managers: Any) -> None:
    event = Event("shop:close", Payload, lambda connection, body: {}, roles=ADMINS)
    assert send(managers.websocket_manager, event, "u", {"text": "x"})["error"]["code"] == "forbidden"
    event = Event("shop:buy", Payload, lambda connection, body: {})
    assert send(managers.websocket_manager, event, "u", {"text": 5})["error"]["errors"][0]["field"] == "text"


def test_a_name_is_registered_once(managers: Any) -> None:
    manager: WebSocketManager = managers.websocket_manager
    event = Event("shop:buy", Payload, lambda connection, body: {})
    manager.register_event(event)
    with pytest.raises(ValueError, match=r"^socket event 'shop:buy' is registered already$"):
        manager.register_event(event)
    manager.unregister_event("shop:buy")
    manager.register_event(event)

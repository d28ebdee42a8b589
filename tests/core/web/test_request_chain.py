"""What stands in front of every handler asks Redis once, and nobody else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pymongo.monitoring
import pytest

from core.managers.app_manager import AppManager
from core.web.routing import EVERYONE, Answer, Route
from tests.support.client import unique
from tests.support.in_process import booted
from tools.local_stack import LocalStack
from tools.local_stack.redis_server import RedisServer
from utils.clock import utc_now

ROUTE = "/chain-test"


class Commands(pymongo.monitoring.CommandListener):
    """What MongoDB is asked from now on."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: pymongo.monitoring.CommandStartedEvent) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: pymongo.monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: pymongo.monitoring.CommandFailedEvent) -> None: ...


commands = Commands()


@pytest.fixture
def application(servers: LocalStack, own_redis: RedisServer, tmp_path: Path) -> Iterator[AppManager]:
    """With a Redis that nobody else talks to."""
    commands.names.clear()
    pymongo.monitoring.register(commands)
    try:
        with booted({**servers.environ, "REDIS_URL": own_redis.url}, tmp_path) as manager:
            manager.chain.mount([Route("GET", ROUTE, lambda call: Answer({"ok": True}), EVERYONE, "Nothing else", limit="money")])
            yield manager
    finally:
        pymongo.monitoring._LISTENERS.command_listeners.remove(commands)


def test_a_request_costs_one_round_trip_to_redis_and_none_to_mongodb(application: AppManager, own_redis: RedisServer) -> None:
    assert application.app is not None
    session_id = unique("s")
    row = {"_id": session_id, "user_id": "u", "revoked_at": None, "expires_at": utc_now() + timedelta(hours=1)}
    application.database_manager.collection("user_sessions").insert_one(row)
    headers = {"Authorization": f"Bearer {application.jwt_manager.generate_token(unique('u'), session_id=session_id)}"}
    client = application.app.test_client()
    first = client.get(ROUTE, headers=headers)
    assert first.status_code == 200
    assert first.headers["RateLimit"].startswith('"money"')
    with own_redis.client() as watcher, watcher.monitor() as monitor:
        commands.names.clear()
        assert client.get(ROUTE, headers=headers).status_code == 200
        assert commands.names == []
        application.redis_manager.exists("the end")
        asked = [c["command"].split()[0] for c in itertools.takewhile(_goes_on, monitor.listen()) if c["client_type"] != "lua"]
    assert asked == ["EVALSHA"]


def _goes_on(command: dict[str, str]) -> bool:
    return "the end" not in command["command"]

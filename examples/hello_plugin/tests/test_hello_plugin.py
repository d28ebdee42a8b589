"""What can be shown of the plugin without a server: what it declares, and that bad input does not get in."""

from __future__ import annotations

from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from hello_plugin.greetings import COLLECTION, Greetings
from hello_plugin.module import GreetingBody, HelloModule
from hello_plugin.plugin import HelloPlugin
from pydantic import ValidationError

from plugins.api import BasePlugin, MalformedRequest, Pager


class Database:
    """As much of the database manager as the plugin needs."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def insert_one(self, collection: str, document: dict[str, Any], session: Any = None) -> None:
        assert collection == COLLECTION
        self.rows.append(document)

    def find_many(self, collection: str, query: dict[str, Any], *, limit: int, sort: Any) -> list[dict[str, Any]]:
        before = query.get("_id", {"$lt": "~"})["$lt"]
        found = [row for row in self.rows if row["user_id"] == query["user_id"] and row["_id"] < before]
        return sorted(found, key=lambda row: row["_id"], reverse=True)[:limit]


def test_the_server_finds_it_by_its_entry_point() -> None:
    (point,) = entry_points(group="credit_system.plugins", name="hello_plugin")
    assert point.load() is HelloPlugin
    assert issubclass(HelloPlugin, BasePlugin)


def test_a_user_reads_their_own_greetings_page_by_page_the_newest_first() -> None:
    greetings = Greetings(Database(), Pager(lambda: (b"k" * 32,)))
    for text in ("one", "two", "three"):
        greetings.add("alice", text)
    greetings.add("bob", "another's")
    first = greetings.page("alice", 2, None)
    second = greetings.page("alice", 2, first["next_cursor"])
    rows = first["data"] + second["data"]
    assert {row["text"] for row in rows} == {"one", "two", "three"}
    assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), reverse=True)
    assert (len(first["data"]), second["next_cursor"]) == (2, None)


def test_a_list_goes_on_when_the_servers_key_was_exchanged_in_between() -> None:
    keys = [b"o" * 32]
    encryption = SimpleNamespace(derive_keys=lambda purpose: list(keys))
    rest = {name: MagicMock() for name in ("hooks_manager", "websocket_manager", "metrics")}
    config = {"HELLO_PLUGIN_GREETING": "Hello"}
    server = SimpleNamespace(config=config, database_manager=Database(), encryption_manager=encryption, **rest)
    module = HelloModule()
    module.initialize(server)
    for text in ("one", "two", "three"):
        module.greetings.add("alice", text)
    first = module.greetings.page("alice", 1, None)
    keys.insert(0, b"n" * 32)
    second = module.greetings.page("alice", 1, first["next_cursor"])
    # The old key is gone, and the page was asked for before that.
    keys.pop()
    third = module.greetings.page("alice", 1, second["next_cursor"])
    assert len({row["id"] for page in (first, second, third) for row in page["data"]}) == 3
    with pytest.raises(MalformedRequest):
        module.greetings.page("alice", 1, first["next_cursor"])


@pytest.mark.parametrize("body", [{}, {"text": ""}, {"text": "x" * 201}, {"text": 5}, {"text": "x", "more": 1}, {"text": "\x00"}], ids=str)
def test_bad_input_is_refused(body: Any) -> None:
    with pytest.raises(ValidationError):
        GreetingBody.model_validate(body)

"""Webhooks on a real database and a real receiver, with a clock that the test turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest
from bson.codec_options import CodecOptions
from pymongo.database import Database

from core.lease import Lease
from core.modules.webhooks_module.deliverer import Deliverer
from core.modules.webhooks_module.delivery_repository import DELIVERIES, DeliveryRepository
from core.modules.webhooks_module.outbox_repository import OutboxRepository
from core.modules.webhooks_module.relay import Relay
from core.modules.webhooks_module.repository import WebhookRepository
from core.modules.webhooks_module.schemas import WebhookBody
from core.modules.webhooks_module.sender import Sender
from core.modules.webhooks_module.service import WebhookService
from core.modules.webhooks_module.targets import check_url
from core.outbox import OUTBOX, Notice, outbox_row
from core.services.addresses import resolve_host
from core.web.paging import Pager
from core.web.routing import Principal
from tests.core.conftest import Factory
from tests.support.client import unique
from tests.support.http_services import HttpServer
from tests.support.in_process import Managers
from tests.support.own_database import own_database
from tests.support.polling import eventually
from tools.local_stack import LocalStack
from utils.clock import utc_now

Document = dict[str, Any]


class World:
    """Everything that is wired in the module, but that nothing runs by itself, and that its clock only moves when it is told to."""

    def __init__(self, managers: Managers, stored: Database[Document]) -> None:
        self.database = managers.database_manager
        self.stored = stored.with_options(codec_options=CodecOptions(tz_aware=True))
        self.webhooks = WebhookRepository(self.database)
        self.deliveries = DeliveryRepository(self.database)
        self.outbox = OutboxRepository(self.database)
        self.now = utc_now()
        self.owner = Principal(unique("u"), "service", "s_1")
        self.gone: set[str] = set()
        self.lease_name = unique("relay")
        self._relay: Relay | None = None
        self._stack = ExitStack()
        self.service = WebhookService(
            self.webhooks,
            self.deliveries,
            Pager(lambda: [b"k" * 32]),
            check_url=lambda url: check_url(url, resolve_host, private=True),
            queued=lambda: None,
        )

    def close(self) -> None:
        self._stack.close()

    def clock(self) -> datetime:
        return self.now

    def later(self, **by: float) -> None:
        self.now += timedelta(**by)

    def relay(self) -> Relay:
        """One worker's relay."""
        relay = Relay(self.outbox, Lease(self.database, self.lease_name, 30), lambda: None, self.clock)
        self._stack.callback(relay.stop)
        return relay

    def relay_all(self) -> None:
        """As the worker that has the lease."""
        self._relay = self._relay or self.relay()
        self._relay.tick()

    def deliverer(self, at_once: int = 16, seconds: float = 5.0) -> Deliverer:
        """One worker's deliverer; `seconds` for an attempt."""
        deliverer = Deliverer(
            self.webhooks,
            self.deliveries,
            Sender(private=True, seconds=seconds),
            owners=lambda ids: set(ids) - self.gone,
            at_once=at_once,
            locked=90,
            seconds=3600,
            clock=self.clock,
            draw=lambda: 0.0,
        )
        self._stack.callback(deliverer.stop)
        return deliverer

    def webhook(self, url: str, *events: str) -> Document:
        """A new webhook with its secret, as its owner got it."""
        return self.service.create(self.owner, WebhookBody(url=url, events=list(events or ("*",))))

    def happen(self, *notices: Notice) -> str:
        """Write what happened into the outbox; the id of the document."""
        row = outbox_row(self.now, notices)
        self.stored[OUTBOX].insert_one(row)
        return str(row["_id"])

    def tell(self, url: str, *notices: Notice) -> Document:
        """A webhook with deliveries of `notices` (an alert, when there are none) that are due."""
        webhook = self.webhook(url)
        self.happen(*(notices or (alert(),)))
        self.relay_all()
        return webhook

    def deliver(self, deliverer: Deliverer) -> None:
        """Send what is due now, and write down what came of it."""
        deliverer.tick()
        eventually(lambda: deliverer.underway == 0, 10)
        deliverer.tick()

    def of(self, webhook: Document) -> list[Document]:
        """The deliveries of a webhook, in the order in which they were made."""
        return list(self.stored[DELIVERIES].find({"webhook_id": webhook["id"]}).sort("$natural", 1))

    def standing(self, webhook: Document) -> Document:
        return self.service.get(self.owner, webhook["id"])


def alert(name: str = "a_1") -> Notice:
    """An event that brings all that is told of it."""
    return Notice("alert.crossed", name, {"alert_id": name, "threshold": 10})


@pytest.fixture(scope="module")
def _managers(servers: LocalStack, app_manager_factory: Factory) -> Iterator[tuple[Managers, Database[Document]]]:
    """On a database of its own, where no application relays."""
    with own_database(servers, unique("webhooks_by_tests")[:38]) as database:
        managers = app_manager_factory("database", "encryption", MONGODB_DATABASE=database.name)
        yield managers, database
        managers.dispose()


@pytest.fixture
def world(_managers: tuple[Managers, Database[Document]]) -> Iterator[World]:
    managers, database = _managers
    for name in (OUTBOX, DELIVERIES, "webhooks"):
        database[name].delete_many({})
    world = World(managers, database)
    yield world
    world.close()


@pytest.fixture
def receiver() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server

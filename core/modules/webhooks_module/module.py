"""The webhooks module: tells what happened to whoever asked for it, from the outbox, signed and retried."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from core.contracts import USER_DIRECTORY, Kind
from core.lease import Lease
from core.modules.base_module import BaseModule
from core.modules.webhooks_module.deliverer import Deliverer
from core.modules.webhooks_module.delivery_repository import DeliveryRepository
from core.modules.webhooks_module.outbox_repository import OutboxRepository
from core.modules.webhooks_module.relay import Relay
from core.modules.webhooks_module.repository import WebhookRepository
from core.modules.webhooks_module.routes import webhook_routes
from core.modules.webhooks_module.sender import Sender
from core.modules.webhooks_module.service import WebhookService
from core.modules.webhooks_module.targets import check_url
from core.services.addresses import resolve_host
from core.web.paging import Pager
from core.web.routing import ISSUERS, Route
from utils.background import Ticker

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_LEASE_SECONDS = 30.0
# For what an attempt takes besides: looking names up, and writing down what came of it.
_SLACK_SECONDS = 80.0


class WebhooksModule(BaseModule):
    """Wires repositories, relay, deliverer, service and routes; relay and deliverer run as long as the module."""

    NAME = "webhooks_module"
    DEPENDENCIES = ("wallet_module", "transactions_module")

    def __init__(self) -> None:
        # What has to be stopped, the last one first.
        self._running = ExitStack()

    def initialize(self, app_manager: AppManager) -> bool:
        config, database = app_manager.config, app_manager.database_manager
        self._services = app_manager.services_manager
        private, seconds = config["WEBHOOK_PRIVATE"], config["WEBHOOK_SECONDS"]
        webhooks, deliveries = WebhookRepository(database), DeliveryRepository(database)
        self.deliverer = Deliverer(
            webhooks,
            deliveries,
            Sender(private=private, seconds=config["WEBHOOK_TIMEOUT"]),
            owners=self._entitled,
            at_once=config["WEBHOOK_CONCURRENCY"],
            locked=config["WEBHOOK_TIMEOUT"] + _SLACK_SECONDS,
            seconds=seconds,
        )
        pager = Pager(partial(app_manager.encryption_manager.derive_keys, "cursor"))
        may_use = partial(check_url, resolve=resolve_host, private=private)
        self.service = WebhookService(webhooks, deliveries, pager, check_url=may_use, queued=self.deliverer.wake)
        self._routes = webhook_routes(self.service)
        app_manager.hooks_manager.declare_hook("user_erased", Kind.GATE)
        app_manager.hooks_manager.register_hook("user_erased", self._forget_owner)
        self.deliverer.start()
        self._running.callback(self.deliverer.stop)
        self.relay = Relay(OutboxRepository(database), Lease(database, "webhook-relay", _LEASE_SECONDS), self.deliverer.wake)
        self._running.callback(self.relay.stop)
        ticker = Ticker("webhook-relay", seconds, self.relay.tick, self.relay.failed)
        ticker.start()
        self._running.callback(ticker.stop)
        return True

    @property
    def routes(self) -> Sequence[Route]:
        return self._routes

    def health_check(self) -> dict[str, Any]:
        return {**super().health_check(), "underway": self.deliverer.underway}

    def dispose(self) -> None:
        self._running.close()

    def _entitled(self, user_ids: Collection[str]) -> set[str]:
        """Those of the users who are active and whose role may have webhooks."""
        roles = self._services.get_service(USER_DIRECTORY).find_active_roles(user_ids)
        return {user_id for user_id, role in roles.items() if role in ISSUERS}

    def _forget_owner(self, event: dict[str, Any]) -> None:
        self.service.forget_owner(event["user_id"], event["session"])


MODULE = WebhooksModule

"""The schedules module: transfers that happen later, once or again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from core.contracts import USER_DIRECTORY, Kind, UserEvent
from core.lease import Lease
from core.modules.base_module import BaseModule
from core.modules.schedules_module.repository import ScheduleRepository
from core.modules.schedules_module.routes import schedule_routes
from core.modules.schedules_module.runner import Runner
from core.modules.schedules_module.service import ScheduleService
from core.modules.transactions_module.repository import LedgerRepository
from core.web.paging import Pager
from core.web.routing import Route
from utils.background import Ticker
from utils.clock import utc_now

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_LEASE_SECONDS = 30.0


class SchedulesModule(BaseModule):
    """Wires repository, service, routes and the runner, and joins in when a user leaves."""

    NAME = "schedules_module"
    DEPENDENCIES = ("wallet_module", "transactions_module")

    def __init__(self) -> None:
        # What has to be stopped, the last one first.
        self._running = ExitStack()

    def initialize(self, app_manager: AppManager) -> bool:
        config, database = app_manager.config, app_manager.database_manager
        self._services = app_manager.services_manager
        wallets = app_manager.module_manager.get_module("wallet_module")
        engine = app_manager.module_manager.get_module("transactions_module").engine
        self._repository = ScheduleRepository(database, wallets.repository)
        pager = Pager(partial(app_manager.encryption_manager.derive_keys, "cursor"))
        most = config["SCHEDULES_PER_OWNER"]
        self._routes = schedule_routes(ScheduleService(self._repository, wallets.service, self._find_users, pager, most=most))
        app_manager.hooks_manager.declare_hook("user_erased", Kind.GATE)
        app_manager.hooks_manager.register_hook("user_erased", self._end_all)
        lease = Lease(database, "schedules", _LEASE_SECONDS)
        find_transaction = LedgerRepository(database, wallets.repository).find_transaction
        runner = Runner(engine, self._repository, lease, find_roles=self._find_roles, find_transaction=find_transaction)
        self._running.callback(runner.stop)
        ticker = Ticker("schedules", config["SCHEDULES_SECONDS"], runner.tick, runner.failed)
        ticker.start()
        self._running.callback(ticker.stop)
        return True

    @property
    def routes(self) -> Sequence[Route]:
        return self._routes

    def dispose(self) -> None:
        self._running.close()

    def _find_users(self, usernames: Sequence[str]) -> Mapping[str, str]:
        found: Mapping[str, str] = self._services.get_service(USER_DIRECTORY).find_user_ids(usernames)
        return found

    def _find_roles(self, user_ids: Sequence[str]) -> Mapping[str, str]:
        roles: Mapping[str, str] = self._services.get_service(USER_DIRECTORY).find_active_roles(user_ids)
        return roles

    def _end_all(self, event: UserEvent) -> None:
        self._repository.end_all(event["user_id"], utc_now(), event["session"])


MODULE = SchedulesModule

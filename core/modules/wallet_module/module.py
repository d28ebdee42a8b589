"""The wallet module: opens each user's default wallet and answers what is in a wallet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from core.census import Census
from core.contracts import USER_DIRECTORY, Kind
from core.modules.base_module import BaseModule
from core.modules.wallet_module.census import WalletSums
from core.modules.wallet_module.repository import WalletRepository
from core.modules.wallet_module.routes import wallet_routes
from core.modules.wallet_module.service import WalletService
from core.web.paging import Pager
from core.web.routing import Route

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager


class WalletModule(BaseModule):
    """Wires repository, service and routes, and joins in when a user is made."""

    NAME = "wallet_module"

    def initialize(self, app_manager: AppManager) -> bool:
        self._services = app_manager.services_manager
        self.repository = WalletRepository(app_manager.database_manager)
        pager = Pager(partial(app_manager.encryption_manager.derive_keys, "cursor"))
        self.service = WalletService(self.repository, pager, self._user_exists)
        self._routes = wallet_routes(self.service)
        # A gate, and inside the transaction that makes the user: there is never one without a wallet.
        app_manager.hooks_manager.declare_hook("user_created", Kind.GATE)
        app_manager.hooks_manager.register_hook("user_created", self._open_default)
        app_manager.hooks_manager.declare_hook("user_erased", Kind.GATE)
        app_manager.hooks_manager.register_hook("user_erased", self._freeze)
        sums = WalletSums(self.repository)
        self._census = Census(app_manager.database_manager, "wallets", app_manager.config["METRICS_SECONDS"], sums.count, sums.show)
        self._census.start()
        return True

    @property
    def routes(self) -> Sequence[Route]:
        return self._routes

    def dispose(self) -> None:
        if hasattr(self, "_census"):
            self._census.stop()

    def _user_exists(self, user_id: str) -> bool:
        exists: bool = self._services.get_service(USER_DIRECTORY).is_active(user_id)
        return exists

    def _open_default(self, event: dict[str, Any]) -> None:
        self.service.open_default(event["user_id"], event["session"])

    def _freeze(self, event: dict[str, Any]) -> None:
        self.service.freeze_all(event["user_id"], event["session"])


MODULE = WalletModule

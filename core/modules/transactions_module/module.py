"""The transactions module: the posting engine of this worker, the money verbs, and the ledger's reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.contracts import USER_DIRECTORY
from core.lease import Lease
from core.modules.base_module import BaseModule
from core.modules.transactions_module.alert_service import AlertService
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.posting_queue import NO_TURNS, Turns
from core.modules.transactions_module.pushes import TRANSACTION_POSTED, Pusher
from core.modules.transactions_module.repository import LedgerRepository, at_the_moment
from core.modules.transactions_module.routes import alert_routes, transaction_routes
from core.modules.transactions_module.schemas import TransactionView
from core.modules.transactions_module.service import TransactionService
from core.modules.transactions_module.sweeper import Sweeper
from core.modules.transactions_module.wallet_turns import WalletTurns
from core.web.paging import Pager
from core.web.routing import Route
from utils.background import Ticker
from utils.clock import utc_now

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

# Of a request's time, the share that one commit may take: what arrives during a slow one still gets an answer.
_COMMIT_SHARE = 0.75
_LEASE_SECONDS = 30.0
# Beside what else the workers of a machine share while they run.
_TURNS_FILE = "wallet-turns"


class TransactionsModule(BaseModule):
    """Wires engine, repository, service and routes; the engine runs as long as the module."""

    NAME = "transactions_module"
    DEPENDENCIES = ("wallet_module",)
    SENDS = {TRANSACTION_POSTED: TransactionView}

    def __init__(self) -> None:
        # What has to be stopped, the last one first.
        self._running = ExitStack()

    def initialize(self, app_manager: AppManager) -> bool:
        config = app_manager.config
        self._services = app_manager.services_manager
        wallets = app_manager.module_manager.get_module("wallet_module")
        repository = LedgerRepository(app_manager.database_manager, wallets.repository)
        pusher = Pusher(app_manager.websocket_manager)
        pusher.start()
        self._running.callback(pusher.stop)
        self.engine = PostingEngine(
            repository,
            batch_max=config["LEDGER_BATCH_MAX"],
            queue_max=config["LEDGER_QUEUE_MAX"],
            commit_seconds=_COMMIT_SHARE * config["REQUEST_TIMEOUT"],
            on_commit=pusher.take,
            lanes=config["LEDGER_LANES"],
            turns=self._turns(config),
        )
        pager = Pager(partial(app_manager.encryption_manager.derive_keys, "cursor"))
        self.service = TransactionService(self.engine, repository, wallets.service, self._find_users, pager)
        wallets.service.show_as(self._bring_up_to_date)
        self._routes = (*transaction_routes(self.service), *alert_routes(AlertService(wallets.service, pager)))
        self.engine.start()
        self._running.callback(self.engine.stop)
        self.sweeper = Sweeper(self.engine, repository, Lease(app_manager.database_manager, "ledger-sweeper", _LEASE_SECONDS))
        self._running.callback(self.sweeper.stop)
        ticker = Ticker("ledger-sweeper", config["LEDGER_SWEEP_SECONDS"], self.sweeper.tick, self.sweeper.failed)
        ticker.start()
        self._running.callback(ticker.stop)
        return True

    @property
    def routes(self) -> Sequence[Route]:
        return self._routes

    def health_check(self) -> dict[str, Any]:
        return {**super().health_check(), "queue_length": self.engine.queue_length}

    def dispose(self) -> None:
        self._running.close()

    def _turns(self, config: Mapping[str, Any]) -> Turns:
        if config["WORKERS"] == 1:
            return NO_TURNS
        turns = WalletTurns(Path(config["DATA_DIR"]) / _TURNS_FILE)
        self._running.callback(turns.close)
        return turns

    def _find_users(self, usernames: Sequence[str]) -> Mapping[str, str]:
        if not usernames:
            return {}
        found: Mapping[str, str] = self._services.get_service(USER_DIRECTORY).find_user_ids(usernames)
        return found

    def _bring_up_to_date(self, document: dict[str, Any]) -> dict[str, Any]:
        return at_the_moment(document, utc_now())


MODULE = TransactionsModule

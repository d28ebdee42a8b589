"""The ledger module: seals and verifies the ledger in the background, and answers whether it is sound."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from core.chain_sealer import ChainSealer
from core.lease import Lease, LeaseLost
from core.modules.base_module import BaseModule
from core.modules.ledger_module.checker import Checker
from core.modules.ledger_module.importer import Importer
from core.modules.ledger_module.repository import LEDGER, ProofRepository
from core.modules.ledger_module.routes import ledger_routes
from core.modules.ledger_module.service import LedgerService
from core.modules.ledger_module.store import LedgerStore
from core.web.routing import Route
from tools.error_handling.errors import Unavailable
from tools.logger.custom_logger import log_exception
from utils.background import Ticker

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

_LEASE_SECONDS = 30.0
# How often a round of the verification goes on for a while.
_STEP_SECONDS = 1.0


class LedgerModule(BaseModule):
    """Wires repository, service and routes; sealer and checker run as long as the module."""

    NAME = "ledger_module"
    DEPENDENCIES = ("wallet_module", "transactions_module")

    def __init__(self) -> None:
        # What has to be stopped, the last one first.
        self._running = ExitStack()

    def initialize(self, app_manager: AppManager) -> bool:
        config, database = app_manager.config, app_manager.database_manager
        proofs = ProofRepository(database)
        store = LedgerStore(database, proofs)
        self.service = LedgerService(proofs, store, Importer(store, proofs, Lease(database, "ledger-import", _LEASE_SECONDS)))
        self._routes = ledger_routes(self.service)
        sealer = ChainSealer(
            database,
            LEDGER,
            delay=config["AUDIT_SEAL_DELAY"],
            may_seal=lambda: store.epoch() is not None,
            # The checker looks at everything.
            looks_again=False,
        )
        self._start("ledger-sealer", config["AUDIT_SEAL_SECONDS"], sealer)
        pause = config["LEDGER_CHECK_SECONDS"]
        checker = Checker(proofs, Lease(database, "ledger-checker", _LEASE_SECONDS), pause, store.epoch)
        self._start("ledger-checker", min(_STEP_SECONDS, pause), checker)
        return True

    @property
    def routes(self) -> Sequence[Route]:
        return self._routes

    def dispose(self) -> None:
        self._running.close()

    def _start(self, name: str, seconds: float, worker: ChainSealer | Checker) -> None:
        def stop() -> None:
            with suppress(Unavailable):
                worker.stop()

        ticker = Ticker(name, seconds, worker.tick, worker.failed if isinstance(worker, Checker) else _sealing_failed)
        self._running.callback(stop)
        ticker.start()
        self._running.callback(ticker.stop)


def _sealing_failed(error: Exception) -> None:
    if not isinstance(error, (Unavailable, LeaseLost)):
        log_exception("the ledger could not be sealed", error)


MODULE = LedgerModule

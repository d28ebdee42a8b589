"""Writes down what the clock has done to wallets that nobody touches: once among all workers, in commits like everybody's."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from core import metrics
from core.modules.transactions_module.commands import Command, Verdict
from core.modules.transactions_module.operations import Actor, Tidy
from tools.error_handling.errors import AppError, Unavailable
from tools.logger.custom_logger import custom_log, log_exception
from utils.clock import utc_now

if TYPE_CHECKING:
    from core.lease import Lease
    from core.modules.transactions_module.engine import PostingEngine

_WALLETS_AT_ONCE = 64
# What one tick does at the most: it has to be over long before the lease is.
_ROUNDS = 50
_SYSTEM = Actor("system", privileged=True, sees_all=True)


class DueWallets(Protocol):
    """Where it is known which wallets wait."""

    def due_wallets(self, now: datetime, limit: int) -> list[str]:
        """Up to `limit` of them."""


class Sweeper:
    """Call `tick` again and again in each worker; the holder of the lease works, the others do nothing.

    Two that work at the same time do no harm: what was written down by one is found done by the other.
    """

    def __init__(self, engine: PostingEngine, ledger: DueWallets, lease: Lease) -> None:
        self._engine = engine
        self._ledger = ledger
        self._lease = lease

    def tick(self) -> int:
        """Bring every wallet that is due up to date; how many there were."""
        if not self._lease.take():
            return 0
        total = 0
        for _ in range(_ROUNDS):
            due = self._ledger.due_wallets(utc_now(), _WALLETS_AT_ONCE)
            if due:
                self._tidy(tuple(due))
            total += len(due)
            if len(due) < _WALLETS_AT_ONCE:
                break
        metrics.note_run("ledger-sweeper")
        return total

    def stop(self) -> None:
        """Let another worker go on at once."""
        try:
            self._lease.release()
        except Unavailable:
            # It ends by itself.
            custom_log("the ledger sweeper's lease is left to expire", level="WARNING")

    def failed(self, error: Exception) -> None:
        """Note that a tick went wrong; the next one comes."""
        if isinstance(error, AppError):
            custom_log("the ledger sweeper has to wait", level="WARNING", code=error.code)
        else:
            log_exception("the ledger sweeper stumbled", error)

    def _tidy(self, wallet_ids: tuple[str, ...]) -> Verdict:
        return self._engine.submit(Command((Tidy(wallet_ids),), _SYSTEM, None, ""))

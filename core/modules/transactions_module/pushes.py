"""Tells the owners of wallets what was committed, over their open sockets; beside the posting thread, and never in its way."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

from core import metrics
from core.modules.transactions_module.commands import Outcome
from core.modules.transactions_module.ledger import Transaction, Wallet
from core.modules.transactions_module.schemas import transaction_view
from tools.error_handling.errors import AppError
from tools.logger.custom_logger import custom_log, log_exception
from utils.background import Ticker

WALLET_UPDATED, TRANSACTION_POSTED = "wallet_updated", "transaction_posted"
# What happens within this time to one wallet is told at once: nobody sees faster, and a hot wallet changes a thousand times.
_GATHER_SECONDS = 0.02
_IDLE_SECONDS = 3600.0
_TRANSACTIONS_MAX = 10_000

Push = tuple[str, str, dict[str, Any]]


class Sockets(Protocol):
    """Who holds the sockets."""

    def users_online(self, user_ids: Collection[str]) -> set[str]:
        """Which of them have a socket, on whichever worker; one round trip. Unavailable."""

    def emit_to_user(self, user_id: str, event: str, data: dict[str, Any]) -> None:
        """Send to all sockets of a user."""


class Pusher:
    """`take` notes a commit; a thread of its own tells. What cannot be told is dropped: clients see the gap in `seq`, and read again."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self._lock = threading.Lock()
        self._wallets: dict[str, Wallet] = {}
        self._posted: list[tuple[Transaction, Mapping[str, str]]] = []
        self._ticker = Ticker("pushes", _IDLE_SECONDS, self._tell_soon, self._failed)

    def start(self) -> None:
        """Begin to tell."""
        self._ticker.start()

    def stop(self) -> None:
        """End; what was not told stays untold."""
        self._ticker.stop()

    def take(self, outcome: Outcome) -> None:
        """Note what was committed."""
        if not outcome.wallets:
            return
        owners = {wallet.id: wallet.owner_id for _, wallet in outcome.wallets}
        with self._lock:
            # A commit decides on wallets of its own, so these do not change any more.
            self._wallets.update((wallet.id, wallet) for _, wallet in outcome.wallets)
            room = _TRANSACTIONS_MAX - len(self._posted)
            self._posted.extend((posting.transaction, owners) for posting in outcome.posted[:room])
        metrics.PUSHES_DROPPED.inc(max(0, len(outcome.posted) - room))
        self._ticker.wake()

    def tell(self) -> None:
        """Tell what was noted until now to those who are there."""
        with self._lock:
            wallets, posted = self._wallets, self._posted
            self._wallets, self._posted = {}, []
        if not wallets:
            return
        try:
            online = self._sockets.users_online({wallet.owner_id for wallet in wallets.values()})
            for user_id, event, data in _pushes(wallets, posted, online) if online else ():
                self._sockets.emit_to_user(user_id, event, data)
                metrics.PUSHES.labels(event).inc()
        except AppError:
            metrics.PUSHES_DROPPED.inc(len(posted))
            raise

    def _tell_soon(self) -> None:
        time.sleep(_GATHER_SECONDS)
        self.tell()

    @staticmethod
    def _failed(error: Exception) -> None:
        if isinstance(error, AppError):
            custom_log("balances could not be pushed", level="WARNING", code=error.code)
        else:
            log_exception("the pushes stumbled", error)


def wallet_push(wallet: Wallet) -> dict[str, Any]:
    """A wallet's `wallet_updated`. `seq` grows by one an entry: a gap says that something was missed.

    `version` grows with every change, also of what is held: the greater one is the newer one, whichever arrives first.
    """
    return {
        "wallet_id": wallet.id,
        "settled": wallet.settled,
        "held": wallet.held,
        "available": wallet.available,
        "seq": wallet.seq,
        "version": wallet.version + 1,
    }


def _pushes(wallets: Mapping[str, Wallet], posted: list[tuple[Transaction, Mapping[str, str]]], online: set[str]) -> Iterator[Push]:
    for transaction, owners in posted:
        for owner_id in {owners[wallet_id] for wallet_id in transaction.wallet_ids} & online:
            own = {wallet_id for wallet_id in transaction.wallet_ids if owners[wallet_id] == owner_id}
            yield owner_id, TRANSACTION_POSTED, transaction_view(transaction, own, paid=transaction.source in own)
    for wallet in wallets.values():
        if wallet.owner_id in online:
            yield wallet.owner_id, WALLET_UPDATED, wallet_push(wallet)

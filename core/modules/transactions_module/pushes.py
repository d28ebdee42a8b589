"""Tells the owners of wallets what was committed, over their open sockets; beside the posting thread, and never in its way."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
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

    def emit_to_users(self, emits: Iterable[Push]) -> None:
        """Send each `(user_id, event, data)`, all in one round trip. Unavailable."""


class Pusher:
    """`take` notes a commit; a thread of its own tells. What cannot be told is dropped: clients see the gap in `seq`, and read again."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self._lock = threading.Lock()
        # Each with the version that it has now.
        self._wallets: dict[str, tuple[int, Wallet]] = {}
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
            for version, wallet in outcome.wallets:
                self._keep_newest(version + 1, wallet)
            room = _TRANSACTIONS_MAX - len(self._posted)
            self._posted.extend((posting.transaction, owners) for posting in outcome.posted[:room])
        metrics.PUSHES_DROPPED.inc(max(0, len(outcome.posted) - room))
        self._ticker.wake()

    def note(self, wallet: Wallet) -> None:
        """Note a wallet that was changed, but not by a commit."""
        with self._lock:
            self._keep_newest(wallet.version, wallet)
        self._ticker.wake()

    def _keep_newest(self, version: int, wallet: Wallet) -> None:
        if wallet.id not in self._wallets or self._wallets[wallet.id][0] < version:
            self._wallets[wallet.id] = version, wallet

    def tell(self) -> None:
        """Tell what was noted until now to those who are there."""
        with self._lock:
            wallets, posted = self._wallets, self._posted
            self._wallets, self._posted = {}, []
        if not wallets:
            return
        try:
            online = self._sockets.users_online({wallet.owner_id for _, wallet in wallets.values()})
            pushes = list(_pushes(wallets.values(), posted, online)) if online else []
            if pushes:
                self._sockets.emit_to_users(pushes)
        except AppError:
            metrics.PUSHES_DROPPED.inc(len(posted))
            raise
        for event, count in Counter(event for _, event, _ in pushes).items():
            metrics.PUSHES.labels(event).inc(count)

    def _tell_soon(self) -> None:
        time.sleep(_GATHER_SECONDS)
        self.tell()

    @staticmethod
    def _failed(error: Exception) -> None:
        if isinstance(error, AppError):
            custom_log("balances could not be pushed", level="WARNING", code=error.code)
        else:
            log_exception("the pushes stumbled", error)


def wallet_push(version: int, wallet: Wallet) -> dict[str, Any]:
    """A wallet's `wallet_updated`. `seq` grows by one an entry: a gap says that something was missed.

    `version` grows with every change, also of what is held: the greater one is the newer one, whichever arrives first.
    """
    return {
        "wallet_id": wallet.id,
        "settled": wallet.settled,
        "held": wallet.held,
        "available": wallet.available,
        "seq": wallet.seq,
        "version": version,
    }


def _pushes(wallets: Iterable[tuple[int, Wallet]], posted: list[tuple[Transaction, Mapping[str, str]]], online: set[str]) -> Iterator[Push]:
    for transaction, owners in posted:
        for owner_id in {owners[wallet_id] for wallet_id in transaction.wallet_ids} & online:
            own = {wallet_id for wallet_id in transaction.wallet_ids if owners[wallet_id] == owner_id}
            yield owner_id, TRANSACTION_POSTED, transaction_view(transaction, own, paid=transaction.source in own)
    for version, wallet in wallets:
        if wallet.owner_id in online:
            yield wallet.owner_id, WALLET_UPDATED, wallet_push(version, wallet)

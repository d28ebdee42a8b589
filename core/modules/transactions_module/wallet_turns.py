"""Whose turn it is with a wallet, among the workers of one machine: who waits is next, and who dies holds nothing.

Without turns, two workers with a wallet in common find out from the database's write conflict, at the end of their work, and
the one that lost begins anew against the one that is already at it again. What is written does not depend on the turns:
it is the transaction that keeps it right.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Collection
from pathlib import Path

_WALLETS = 2**61  # of 63 bits that a place in a file may have, one tells gate and wallet apart


class WalletTurns:
    """Byte-range locks on one file, which the kernel frees with the process: two bytes for each wallet.

    One is the turn; the other is a gate in front of it, where one waits: as long as somebody stands there, nobody passes.
    One thread at a time.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._at_gate: set[str] = set()

    def take(self, wallet_ids: Collection[str]) -> bool:
        """Take the turn with all of `wallet_ids` or with none; where another worker has one, stand in line for it."""
        taken: list[str] = []
        # All workers in one order: of those who wait for each other's, one can always go on.
        for wallet_id in sorted(wallet_ids):
            if not self._take_one(wallet_id):
                self.give_back(taken)
                return False
            taken.append(wallet_id)
        return True

    def give_back(self, wallet_ids: Collection[str]) -> None:
        """Let the next one have its turn."""
        for wallet_id in wallet_ids:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(wallet_id) + 1)

    def forget_others(self, wallet_ids: Collection[str]) -> bool:
        """Stand in line for nothing but `wallet_ids`; whether there is any line to stand in."""
        for wallet_id in self._at_gate.difference(wallet_ids):
            self._leave_gate(wallet_id)
        return bool(wallet_ids)

    def close(self) -> None:
        """Give everything back."""
        os.close(self._file)

    def _take_one(self, wallet_id: str) -> bool:
        place = _place(wallet_id)
        if wallet_id not in self._at_gate and not self._lock(place):
            return False
        self._at_gate.add(wallet_id)
        if not self._lock(place + 1):
            return False
        self._leave_gate(wallet_id)
        return True

    def _lock(self, place: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:
            return False
        return True

    def _leave_gate(self, wallet_id: str) -> None:
        self._at_gate.discard(wallet_id)
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(wallet_id))


def _place(wallet_id: str) -> int:
    digest = hashlib.blake2b(wallet_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _WALLETS * 2

"""Whose turn it is with a wallet, among the workers of one machine: who waits is next, and who dies holds nothing.

Without turns, two workers with a wallet in common find out from the database's write conflict, at the end of their work, and
the one that lost begins anew against the one that is already at it again. What is written does not depend on the turns:
it is the transaction that keeps it right. So whoever cannot get one, in reasonable time or at all, goes on without.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path

from tools.logger.custom_logger import custom_log

# The kernel keeps the locks of a file in a list, and goes through it with each call: in one file, a batch of a thousand wallets
# would stop its worker for a second.
_FILES = 64
_WALLETS = 2**61  # of 63 bits that a place in a file may have, one tells gate and wallet apart
_TAKEN = (errno.EACCES, errno.EAGAIN)
# Many commits long. Who has a turn for longer was stopped, or hangs: it must not stop the others too.
_PATIENCE_SECONDS = 1.0
# In which file, and where in it.
_Place = tuple[int, int]


class WalletTurns:
    """Byte-range locks on files, which the kernel frees with the process: two bytes for each wallet.

    One is the turn; the other is a gate in front of it, where one waits: as long as somebody stands there, nobody passes.
    One thread at a time. OSError when `folder` or what belongs into it cannot be made.
    """

    def __init__(self, folder: Path, patience: float = _PATIENCE_SECONDS) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._is_usable = True
        self._files: list[int] = []
        with ExitStack() as undo:
            undo.callback(self.close)
            for number in range(_FILES):
                self._files.append(os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            undo.pop_all()
        self._patience = patience
        self._at_gate: set[str] = set()
        self._waits_since: dict[str, float] = {}

    def take(self, wallet_ids: Collection[str]) -> bool:
        """Take the turn with all of `wallet_ids` or with none; where another worker has one, stand in line for it."""
        taken: list[str] = []
        # First what was not free before: then a large batch that waits for one wallet does not ask for all the others each time.
        # Else all workers in one order: of those who wait for each other's, one can always go on.
        for wallet_id in sorted(wallet_ids, key=lambda each: (each not in self._waits_since, each)):
            if not self._take_one(wallet_id):
                self.give_back(taken)
                return False
            taken.append(wallet_id)
        return True

    def give_back(self, wallet_ids: Collection[str]) -> None:
        """Let the next one have its turn."""
        for wallet_id in wallet_ids:
            self._unlock(_turn(wallet_id))

    def forget_others(self, wallet_ids: Collection[str]) -> bool:
        """Stand in line for nothing but `wallet_ids`; whether there is any line to stand in."""
        for wallet_id in self._at_gate.difference(wallet_ids):
            self._leave_gate(wallet_id)
        # Of whom we were tired of waiting, we remember it: until the turn is free again, we go on without it.
        self._waits_since = {each: since for each, since in self._waits_since.items() if each in wallet_ids or self._is_overdue(since)}
        return bool(wallet_ids)

    def close(self) -> None:
        """Give everything back. Safe to call twice."""
        self._is_usable = False
        # Never again these numbers, which may soon be other files'.
        files, self._files = self._files, []
        for file in files:
            os.close(file)

    def _take_one(self, wallet_id: str) -> bool:
        if self._pass_gate(wallet_id):
            self._waits_since.pop(wallet_id, None)
            return True
        if not self._is_overdue(self._waits_since.setdefault(wallet_id, time.monotonic())):
            return False
        self._leave_gate(wallet_id)
        return True

    def _pass_gate(self, wallet_id: str) -> bool:
        if wallet_id not in self._at_gate and not self._lock(_gate(wallet_id)):
            return False
        self._at_gate.add(wallet_id)
        if not self._lock(_turn(wallet_id)):
            return False
        self._leave_gate(wallet_id)
        return True

    def _is_overdue(self, since: float) -> bool:
        return time.monotonic() - since >= self._patience

    def _lock(self, place: _Place) -> bool:
        if not self._is_usable:
            return True
        file, start = place
        try:
            fcntl.lockf(self._files[file], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            # Workers with a wallet in common are slower together, and right all the same.
            self._is_usable = False
            custom_log("workers cannot take turns: no locks in DATA_DIR", level="WARNING", error=type(error).__name__)
        return True

    def _unlock(self, place: _Place) -> None:
        file, start = place
        # Where it fails, locking has failed too; IndexError: it is closed, and so all is unlocked.
        with suppress(OSError, IndexError):
            fcntl.lockf(self._files[file], fcntl.LOCK_UN, 1, start)

    def _leave_gate(self, wallet_id: str) -> None:
        self._at_gate.discard(wallet_id)
        self._unlock(_gate(wallet_id))


def _gate(wallet_id: str) -> _Place:
    digest = int.from_bytes(hashlib.blake2b(wallet_id.encode(), digest_size=8).digest(), "big")
    return digest % _FILES, digest // _FILES % _WALLETS * 2


def _turn(wallet_id: str) -> _Place:
    file, start = _gate(wallet_id)
    return file, start + 1

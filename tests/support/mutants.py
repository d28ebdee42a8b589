"""Bugs of the kind that ledgers really have, to be planted: whoever checks a history has to find each of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from pymongo.write_concern import WriteConcern

from core.managers import database_errors, database_manager
from core.managers.database_manager import DatabaseManager
from core.modules.transactions_module.commands import Outcome, Snapshot, decide
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.ledger import Book, Wallet
from core.modules.transactions_module.repository import LedgerRepository
from core.modules.wallet_module.repository import WalletRepository
from core.outbox import OUTBOX
from tools.error_handling.errors import Unavailable
from utils.clock import utc_now


def no_idempotency(patch: pytest.MonkeyPatch) -> None:
    """A key is neither looked up nor kept."""
    write = LedgerRepository._write

    def forgetful(self: LedgerRepository, outcome: Outcome, session: Any) -> None:
        outcome.claimed = []
        write(self, outcome, session)

    patch.setattr(LedgerRepository, "_load_answers", lambda *_: {})
    patch.setattr(LedgerRepository, "_write", forgetful)


def unguarded_debit(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks at what is available."""
    patch.setattr(Wallet, "available", property(lambda self: 2**53 - 1))


def lost_version_guard(patch: pytest.MonkeyPatch) -> None:
    """Wallets are read outside of the transaction, and written whatever has become of them since."""
    load, save = WalletRepository.load_many, WalletRepository.save_many

    def unguarded(self: WalletRepository, changes: Iterable[tuple[str, int, dict[str, Any]]], session: Any) -> int:
        changes = list(changes)
        stored = {wallet["_id"]: wallet["version"] for wallet in load(self, [wallet_id for wallet_id, *_ in changes], session)}
        return save(self, [(wallet_id, stored[wallet_id], fields) for wallet_id, _, fields in changes], session)

    patch.setattr(WalletRepository, "load_many", lambda self, ids, session: load(self, ids, None))  # type: ignore[arg-type]
    patch.setattr(WalletRepository, "save_many", unguarded)


def answer_before_commit(patch: pytest.MonkeyPatch) -> None:
    """Callers hear of what was decided while it is still being written."""

    def commit(self: PostingEngine, batch: list[Any]) -> None:
        commands = [item.command for item in batch]

        def decide_and_tell(snapshot: Snapshot) -> Outcome:
            outcome = decide(snapshot, commands, utc_now())
            for item, verdict in zip(batch, outcome.verdicts, strict=True):
                if not item.done.is_set():
                    item.finish(verdict)
            return outcome

        self._store.commit(commands, decide_and_tell)

    patch.setattr(PostingEngine, "_commit", commit)


def unknown_told_as_failed(patch: pytest.MonkeyPatch) -> None:
    """A commit without an answer counts as one that has not happened."""
    translate = database_errors.translate

    def sure(error: Any) -> Unavailable | None:
        translated = translate(error)
        return None if translated is None else Unavailable("It has failed.", retry_after=1)

    patch.setattr(database_manager, "translate", sure)


def half_a_batch(patch: pytest.MonkeyPatch) -> None:
    """What the items before a refused one have done stays done."""
    patch.setattr(Book, "branch", lambda self, _: self)
    patch.setattr(Book, "absorb", lambda *_: None)


def told_beside_the_commit(patch: pytest.MonkeyPatch) -> None:
    """The outbox is written outside of the transaction whose effects it tells."""
    insert = DatabaseManager.insert_rows

    def beside(self: DatabaseManager, collection: str, rows: Any, session: Any) -> None:
        insert(self, collection, rows, None if collection == OUTBOX else session)  # type: ignore[arg-type]

    patch.setattr(DatabaseManager, "insert_rows", beside)


def acknowledged_by_one(patch: pytest.MonkeyPatch) -> None:
    """A commit counts as soon as the primary alone has it."""
    patch.setattr(database_manager, "WriteConcern", lambda *_, **__: WriteConcern(1))

"""A posting engine on a real database, without an application around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from core.managers.database_manager import DatabaseManager
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.repository import LedgerRepository
from core.modules.wallet_module.repository import WalletRepository


@contextmanager
def running_engine(db: DatabaseManager) -> Iterator[PostingEngine]:
    """It takes commands until the end of the block."""
    ledger = LedgerRepository(db, WalletRepository(db))
    engine = PostingEngine(ledger, batch_max=256, queue_max=256, commit_seconds=5, on_commit=lambda outcome: None)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()

"""Posting engines in the test's own process on a real MongoDB, as several workers would have them, without the rest of the application."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from core.modules.transactions_module.commands import Outcome
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.repository import LedgerRepository
from core.modules.wallet_module.repository import WalletRepository
from core.modules.wallet_module.service import new_wallet
from tests.support.client import unique
from tests.support.in_process import Managers
from tests.support.verbs import InProcess


def _to_nobody(_: Outcome) -> None:
    """What others would tell the wallets' owners."""


class Engines:
    """Each with connections of its own, to the database `name`; `wallets` are new and empty."""

    def __init__(self, environ: Mapping[str, str], count: int, wallets: int, commit_seconds: float, stack: ExitStack) -> None:
        self.name = environ["MONGODB_DATABASE"]
        self.databases = []
        self.engines = []
        for _ in range(count):
            managers = Managers(environ, "database")
            stack.callback(managers.dispose)
            database = managers.database_manager
            repository = LedgerRepository(database, WalletRepository(database))
            engine = PostingEngine(repository, batch_max=64, queue_max=256, commit_seconds=commit_seconds, on_commit=_to_nobody)
            engine.start()
            stack.callback(engine.stop)
            self.databases.append(database)
            self.engines.append(engine)
        self.wallets = [self.open() for _ in range(wallets)]
        self.transport = InProcess(*self.engines)

    def open(self) -> str:
        """A new wallet."""
        wallet = new_wallet(unique("u"), "CREDIT")
        return str(self.databases[0].insert_one("wallets", wallet))


@contextmanager
def running_engines(environ: Mapping[str, str], *, count: int = 2, wallets: int = 3, commit_seconds: float = 3.0) -> Iterator[Engines]:
    """`count` engines on the database that `environ` names."""
    with ExitStack() as stack:
        yield Engines(environ, count, wallets, commit_seconds, stack)

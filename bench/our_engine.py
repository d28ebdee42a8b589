"""Our side of the engine bench: callers in one process, all their transfers through the posting engine."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.callers import Call, drive
from bench.loader import GROUP, load_group, wallet_name
from bench.result import Result
from bench.scenarios import AMOUNT, OPENING_BALANCE, Pairs, pairs
from core.managers.app_manager import AppManager
from core.modules.transactions_module.commands import Claim, Command
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.ledger import TRANSFER, Draft
from core.modules.transactions_module.operations import Actor, Post

# As a service that moves its users' credits: the same checks as for a user, on wallets that are not its own.
ACTOR = Actor("bench", privileged=True, sees_all=True)
_LAST_GROUP = 2**32


def run_engine(scenario: str, callers: int, wallets: int, seconds: float) -> Result:
    """Transfers by `callers` parallel callers over `wallets` wallets for `seconds`; the whole record is written."""
    with booted() as manager:
        names = open_wallets(wallets)
        result = run_on(manager, names, scenario, callers, seconds)
        if sum(_balances(manager, names)) != GROUP * OPENING_BALANCE:
            raise RuntimeError("the balances do not sum to what was issued")
        return result


@contextmanager
def booted() -> Iterator[AppManager]:
    """The application's managers, as a worker has them, without HTTP."""
    manager = AppManager()
    manager.initialize()
    try:
        yield manager
    finally:
        manager.dispose()


def open_wallets(count: int) -> list[str]:
    """The ids of up to 1,000 new wallets, each with a grant and a short history."""
    # Above those that a bulk load numbers from 0.
    group = random.SystemRandom().randrange(_LAST_GROUP // 2, _LAST_GROUP)
    load_group(os.environ["BENCH_MONGODB_URI"], os.environ["MONGODB_DATABASE"], group)
    return [wallet_name(group * GROUP + number) for number in range(count)]


def run_on(manager: AppManager, names: Sequence[str], scenario: str, callers: int, seconds: float) -> Result:
    """Transfers among the wallets `names` by `callers` parallel callers."""
    engine = engine_of(manager)
    return drive([transfer_call(engine, pairs(scenario, names, caller)) for caller in range(callers)], seconds)


def engine_of(manager: AppManager) -> PostingEngine:
    """The posting engine of this process."""
    engine: PostingEngine = manager.module_manager.get_module("transactions_module").engine
    return engine


def transfer_call(engine: PostingEngine, stream: Pairs) -> Call:
    """A call that makes the next transfer of `stream`, with a key of its own; raises what the engine raises."""
    prefix, number = uuid.uuid4().hex, 0

    def call() -> None:
        nonlocal number
        number += 1
        source, destination = next(stream)
        draft = Draft(TRANSFER, AMOUNT, source, destination)
        # As the route does it: the claim is made of the request, key by key.
        claim = Claim.of(ACTOR.user_id, "POST /transfers", f"{prefix}-{number}", {"source": source, "destination": destination})
        verdict = engine.submit(Command((Post(draft),), ACTOR, claim, prefix))
        if verdict.status != 201:
            raise RuntimeError(verdict.body)

    return call


def _balances(manager: AppManager, names: Sequence[str]) -> list[int]:
    """Of the whole group that `names` are from."""
    first = names[0][:10]
    query = {"_id": {"$gte": first, "$lt": f"{first}g"}}
    return [wallet["settled"] for wallet in manager.database_manager.collection("wallets").find(query, ("settled",))]

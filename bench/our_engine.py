"""Our side of the engine bench: callers in one process, all their transfers through the posting engine."""

from __future__ import annotations

import uuid

from bench.callers import Call, drive
from bench.result import Result
from bench.scenarios import AMOUNT, OPENING_BALANCE, Pairs, pairs
from core.managers.app_manager import AppManager
from core.modules.transactions_module.commands import Claim, Command
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.ledger import TRANSFER, Draft
from core.modules.transactions_module.operations import Actor, Post
from core.modules.wallet_module.service import DEFAULT_ASSET, new_wallet

# As a service that moves its users' credits: the same checks as for a user, on wallets that are not its own.
_ACTOR = Actor("bench", privileged=True, sees_all=True)


def run_engine(scenario: str, callers: int, wallets: int, seconds: float) -> Result:
    """Transfers by `callers` parallel callers over `wallets` wallets for `seconds`; the whole record is written."""
    manager = AppManager()
    manager.initialize()
    try:
        names = _open_wallets(manager, wallets)
        engine = manager.module_manager.get_module("transactions_module").engine
        result = drive([_call(engine, pairs(scenario, names, caller)) for caller in range(callers)], seconds)
        if sum(_balances(manager, names)) != wallets * OPENING_BALANCE:
            raise RuntimeError("the balances do not sum to what was issued")
        return result
    finally:
        manager.dispose()


def _open_wallets(manager: AppManager, count: int) -> list[str]:
    owner = uuid.uuid4().hex
    rows = [{**new_wallet(f"{owner}-{number}", DEFAULT_ASSET), "settled": OPENING_BALANCE} for number in range(count)]
    manager.database_manager.collection("wallets").insert_many(rows)
    return [row["_id"] for row in rows]


def _balances(manager: AppManager, names: list[str]) -> list[int]:
    found = manager.database_manager.collection("wallets").find({"_id": {"$in": names}}, ("settled",))
    return [wallet["settled"] for wallet in found]


def _call(engine: PostingEngine, stream: Pairs) -> Call:
    prefix, number = uuid.uuid4().hex, 0

    def call() -> None:
        nonlocal number
        number += 1
        source, destination = next(stream)
        draft = Draft(TRANSFER, AMOUNT, source, destination)
        # As the route does it: the claim is made of the request, key by key.
        claim = Claim.of(_ACTOR.user_id, "POST /transfers", f"{prefix}-{number}", {"source": source, "destination": destination})
        verdict = engine.submit(Command((Post(draft),), _ACTOR, claim, prefix))
        if verdict.status != 201:
            raise RuntimeError(verdict.body)

    return call

"""Wallets, drafts and commands for the tests of the ledger, as short as they can be."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from core.modules.transactions_module.commands import Batch, Claim, Command
from core.modules.transactions_module.ledger import DEBIT, GRANT, ISSUANCE, REVENUE, TRANSFER, Draft, GrantTerms, Wallet
from core.modules.transactions_module.operations import Actor, Operation, Post

START = datetime(2026, 1, 1, tzinfo=UTC)
ADMIN = Actor("u_admin", privileged=True, sees_all=True)
_keys = itertools.count()


def wallet(name: str, owner: str = "u_1", asset: str = "CREDIT", credit_limit: int = 0, status: str = "active", **more: Any) -> Wallet:
    state = {"settled": 0, "held": 0, "version": 0, "seq": 0, "lots": (), "posted_at": START, **more}
    return Wallet(name, owner, asset, credit_limit=credit_limit, status=status, **state)


def user(user_id: str) -> Actor:
    return Actor(user_id, privileged=False, sees_all=False)


def grant(to: str, amount: int, category: str = "paid", priority: int = 50, *, terms: GrantTerms | None = None, **more: Any) -> Draft:
    return Draft(GRANT, amount, ISSUANCE, to, terms=terms or GrantTerms(category, priority), **more)


def debit(source: str, amount: int, **more: Any) -> Draft:
    return Draft(DEBIT, amount, source, REVENUE, **more)


def transfer(source: str, destination: str, amount: int, **more: Any) -> Draft:
    return Draft(TRANSFER, amount, source, destination, **more)


def command(wish: Draft | Operation, actor: Actor = ADMIN, key: str | None = None, *, dry_run: bool = False) -> Command:
    """A command with `key`, or with one that nobody else has; its fingerprint is that of what is wished for."""
    operation = Post(wish) if isinstance(wish, Draft) else wish
    if dry_run:
        return Command((operation,), actor, None, "req-1", dry_run=True)
    kind = wish.type if isinstance(wish, Draft) else operation.name
    request = {name: value for name, value in asdict(wish).items() if name != "terms"}  # type: ignore[call-overload]
    return Command((operation,), actor, _claim(actor, kind, key, request), "req-1")


def batch(*wishes: Draft | Operation, atomic: bool, actor: Actor = ADMIN, key: str | None = None, dry_run: bool = False) -> Command:
    """Several wishes in one command."""
    operations = tuple(Post(wish) if isinstance(wish, Draft) else wish for wish in wishes)
    request = {"items": [asdict(operation) for operation in operations], "atomic": atomic}  # type: ignore[call-overload]
    claim = None if dry_run else _claim(actor, "batch", key, request)
    return Command(operations, actor, claim, "req-1", Batch(atomic, (None,) * len(operations)), dry_run=dry_run)


def _claim(actor: Actor, kind: str, key: str | None, request: dict[str, Any]) -> Claim:
    return Claim.of(actor.user_id, kind, key or f"key-{next(_keys)}", request)

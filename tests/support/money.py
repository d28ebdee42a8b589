"""Wallets, drafts and commands for the tests of the ledger, as short as they can be."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from core.modules.transactions_module.commands import Actor, Claim, Command
from core.modules.transactions_module.ledger import DEBIT, GRANT, ISSUANCE, REVENUE, TRANSFER, Draft, GrantTerms, Wallet

START = datetime(2026, 1, 1, tzinfo=UTC)
ADMIN = Actor("u_admin", privileged=True, sees_all=True)
_keys = itertools.count()


def wallet(name: str, owner: str = "u_1", asset: str = "CREDIT", credit_limit: int = 0, status: str = "active", **more: Any) -> Wallet:
    state = {"settled": 0, "held": 0, "version": 0, "seq": 0, "lots": (), "posted_at": START, **more}
    return Wallet(name, owner, asset, credit_limit=credit_limit, status=status, **state)


def user(user_id: str) -> Actor:
    return Actor(user_id, privileged=False, sees_all=False)


def grant(to: str, amount: int, category: str = "paid", priority: int = 50, **more: Any) -> Draft:
    return Draft(GRANT, amount, ISSUANCE, to, terms=GrantTerms(category, priority), **more)


def debit(source: str, amount: int, **more: Any) -> Draft:
    return Draft(DEBIT, amount, source, REVENUE, **more)


def transfer(source: str, destination: str, amount: int, **more: Any) -> Draft:
    return Draft(TRANSFER, amount, source, destination, **more)


def command(draft: Draft, actor: Actor = ADMIN, key: str | None = None, *, dry_run: bool = False) -> Command:
    """A command with `key`, or with one that nobody else has; its fingerprint is that of the draft."""
    if dry_run:
        return Command(draft, actor, None, "req-1")
    request = {name: value for name, value in asdict(draft).items() if name != "terms"}
    return Command(draft, actor, Claim.of(actor.user_id, draft.type, key or f"key-{next(_keys)}", request), "req-1")

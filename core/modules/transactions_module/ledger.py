"""The rules of the ledger, in memory and without I/O: double entry, floors, sequence numbers, which grant pays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from core.modules.transactions_module import errors
from core.modules.transactions_module.errors import LedgerInvariantError
from utils.ids import new_id

# Where credits come from and where they go when they are spent. These accounts have no document that every
# transaction would have to update: what is in them is the sum of their entries.
ISSUANCE, REVENUE = "system:issuance", "system:revenue"
GRANT, DEBIT, TRANSFER = "grant", "debit", "transfer"
PROMOTIONAL, PAID = "promotional", "paid"
MAX_BALANCE = 2**53 - 1
# A wallet's open lots travel with it in every commit, so there is an end to them.
MAX_LOTS = 500
_ACTIVE = "active"
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Lot:
    """What is left of one grant. Lots pay in the order of `rank`."""

    grant_id: str
    remaining: int
    category: str
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    created_at: datetime

    @property
    def rank(self) -> tuple[Any, ...]:
        """Priority, then what expires first, promotional before paid, then the older one."""
        return (self.priority, self.expires_at or _NEVER, self.category != PROMOTIONAL, self.effective_at, self.created_at, self.grant_id)


@dataclass(slots=True)
class Wallet:
    """A wallet's state; all amounts in minor units of `asset`."""

    id: str
    owner_id: str
    asset: str
    settled: int
    held: int
    credit_limit: int
    status: str
    version: int
    seq: int
    lots: tuple[Lot, ...]
    posted_at: datetime

    @property
    def available(self) -> int:
        return self.settled + self.credit_limit - self.held


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """The conditions of a grant."""

    category: str = PAID
    priority: int = 50


@dataclass(frozen=True, slots=True)
class Draft:
    """A transaction that someone wants: `amount` from `source` to `destination`, wallet ids or system accounts."""

    type: str
    amount: int
    source: str
    destination: str
    reference: str | None = None
    memo: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    terms: GrantTerms | None = None

    @property
    def wallet_ids(self) -> tuple[str, ...]:
        """The wallets that take part."""
        return tuple(account for account in (self.source, self.destination) if not is_system(account))

    @property
    def wallet_id(self) -> str:
        """The wallet that the request addresses, in which its reference must be unique."""
        return self.wallet_ids[0]


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a transaction. System accounts have no sequence and no running balance."""

    wallet_id: str
    delta: int
    seq: int | None
    balance_after: int | None
    held_after: int | None


@dataclass(frozen=True, slots=True)
class Transaction:
    """What was posted; never changed afterwards. `allocations`: (grant id, amount) that paid for it."""

    id: str
    type: str
    asset: str
    amount: int
    source: str
    destination: str
    entries: tuple[Entry, ...]
    reference: str | None
    memo: str | None
    metadata: dict[str, Any]
    allocations: tuple[tuple[str, int], ...]
    grant: Lot | None
    created_at: datetime


class Book:
    """The wallets of one commit. Each `post` sees what the ones before it did; a refused one leaves no trace."""

    def __init__(self, wallets: Iterable[Wallet], now: datetime) -> None:
        self.wallets = {wallet.id: wallet for wallet in wallets}
        self._now = now

    def fork(self, wallet_ids: Iterable[str]) -> Book:
        """A copy of some wallets, to try something that is not to be kept."""
        return Book((replace(self.wallets[i]) for i in wallet_ids if i in self.wallets), self._now)

    def post(self, draft: Draft) -> Transaction:
        """Carry `draft` out, or raise the refusal before anything has changed."""
        source, destination = self._parties(draft)
        asset = self._asset(source, destination)
        if source is not None and source.available < draft.amount:
            raise errors.insufficient_funds(source.available, draft.amount)
        if destination is not None and destination.settled + draft.amount > MAX_BALANCE:
            raise errors.balance_too_large()
        created_at = max([self._now, *(w.posted_at for w in (source, destination) if w is not None)])
        grant = _new_lot(draft, created_at) if draft.terms is not None else None
        if grant is not None and destination is not None and len(destination.lots) >= MAX_LOTS:
            raise errors.too_many_lots(MAX_LOTS)

        allocations = _spend(source, draft.amount) if source is not None else ()
        entries = (
            _move(source, f"{draft.source}:{asset}", -draft.amount, created_at),
            _move(destination, f"{draft.destination}:{asset}", draft.amount, created_at),
        )
        if grant is not None and destination is not None:
            destination.lots = tuple(sorted((*destination.lots, grant), key=lambda lot: lot.rank))
        _assert_sound(entries, source)
        return Transaction(
            id=new_id("tx"),
            type=draft.type,
            asset=asset,
            amount=draft.amount,
            source=entries[0].wallet_id,
            destination=entries[1].wallet_id,
            entries=entries,
            reference=draft.reference,
            memo=draft.memo,
            metadata=draft.metadata,
            allocations=allocations,
            grant=grant,
            created_at=created_at,
        )

    def _parties(self, draft: Draft) -> tuple[Wallet | None, Wallet | None]:
        """The wallets of both sides; None for a system account."""
        if draft.source == draft.destination:
            raise errors.same_wallet()
        parties = []
        for role, account in (("source", draft.source), ("destination", draft.destination)):
            wallet = None
            if not is_system(account):
                wallet = self.wallets.get(account)
                if wallet is None:
                    raise errors.wallet_not_found(role)
                if wallet.status != _ACTIVE:
                    raise errors.wallet_not_active(wallet.status)
            parties.append(wallet)
        return parties[0], parties[1]

    @staticmethod
    def _asset(source: Wallet | None, destination: Wallet | None) -> str:
        assets = {wallet.asset for wallet in (source, destination) if wallet is not None}
        if len(assets) != 1:
            raise errors.asset_mismatch()
        return assets.pop()


def is_system(account: str) -> bool:
    """Whether `account` is one of ours and not a wallet."""
    return account.startswith("system:")


def _new_lot(draft: Draft, created_at: datetime) -> Lot:
    assert draft.terms is not None
    return Lot(new_id("g"), draft.amount, draft.terms.category, draft.terms.priority, created_at, None, created_at)


def _spend(wallet: Wallet, amount: int) -> tuple[tuple[str, int], ...]:
    """Take `amount` from the wallet's lots, in their order; what they do not cover comes from funds without a grant."""
    allocations: list[tuple[str, int]] = []
    left: list[Lot] = []
    for lot in wallet.lots:
        part = min(lot.remaining, amount)
        amount -= part
        if part:
            allocations.append((lot.grant_id, part))
        if part < lot.remaining:
            left.append(replace(lot, remaining=lot.remaining - part) if part else lot)
    wallet.lots = tuple(left)
    return tuple(allocations)


def _move(wallet: Wallet | None, system_account: str, delta: int, created_at: datetime) -> Entry:
    if wallet is None:
        return Entry(system_account, delta, None, None, None)
    wallet.settled += delta
    wallet.seq += 1
    wallet.posted_at = created_at
    return Entry(wallet.id, delta, wallet.seq, wallet.settled, wallet.held)


def _assert_sound(entries: tuple[Entry, ...], debited: Wallet | None) -> None:
    """Asserted in production: better no commit than a wrong one."""
    if sum(entry.delta for entry in entries) != 0:
        raise LedgerInvariantError("entries do not sum to zero")
    if debited is not None and debited.available < 0:
        raise LedgerInvariantError("a wallet fell below its floor")

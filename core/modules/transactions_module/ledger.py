"""The rules of the ledger, in memory and without I/O: double entry, floors, sequence numbers, holds, which grant pays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from core.modules.transactions_module import errors
from core.modules.transactions_module.alerts import SETTLED, Alert, Crossing
from core.modules.transactions_module.errors import LedgerInvariantError
from utils.ids import new_id

# Where credits come from, where they go when they are spent, and where when they expire. These accounts have no document
# that every transaction would have to update: what is in them is the sum of their entries.
ISSUANCE, REVENUE, BREAKAGE = "system:issuance", "system:revenue", "system:breakage"
GRANT, DEBIT, TRANSFER, CAPTURE, REVERSAL, EXPIRY = "grant", "debit", "transfer", "capture", "reversal", "expiry"
PROMOTIONAL, PAID = "promotional", "paid"
OPEN, CAPTURED, RELEASED, EXPIRED, VOIDED = "open", "captured", "released", "expired", "voided"
MAX_BALANCE = 2**53 - 1
# A wallet's open lots and holds travel with it in every commit, so there is an end to them.
MAX_LOTS = 500
MAX_HOLDS = 500
_ACTIVE = "active"
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Promise:
    """What the transaction of a grant will say that takes effect later."""

    reference: str | None
    memo: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lot:
    """What is left of one grant. Lots pay in the order of `rank`; one with `effective_at` to come is not in the balance yet."""

    grant_id: str
    remaining: int
    category: str
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    created_at: datetime
    # What is posted when `effective_at` comes; None when it was.
    pending: Promise | None = None

    @property
    def rank(self) -> tuple[Any, ...]:
        """Priority, then what expires first, promotional before paid, then the older one."""
        return (self.priority, self.expires_at or _NEVER, self.category != PROMOTIONAL, self.effective_at, self.created_at, self.grant_id)


@dataclass(frozen=True, slots=True)
class Reserve:
    """An open hold as it lies in its wallet: what it still reserves, and until when."""

    hold_id: str
    remaining: int
    expires_at: datetime


@dataclass(slots=True)
class Hold:
    """A hold's record. `placed_by_owner`: the wallet's owner may also end it."""

    id: str
    wallet_id: str
    owner_id: str
    amount: int
    captured: int
    status: str
    reason: str | None
    placed_by_owner: bool
    expires_at: datetime
    created_at: datetime

    @property
    def remaining(self) -> int:
        """What is still reserved."""
        return self.amount - self.captured if self.status == OPEN else 0


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
    holds: tuple[Reserve, ...] = ()
    alerts: tuple[Alert, ...] = ()

    @property
    def available(self) -> int:
        return self.settled + self.credit_limit - self.held


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """The conditions of a grant. None for `effective_at` means at once, for `expires_at` never."""

    category: str = PAID
    priority: int = 50
    effective_at: datetime | None = None
    expires_at: datetime | None = None


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
    reverses: str | None = None

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
    """What was posted; never changed afterwards. `allocations`: (grant id, amount) that paid for it, or that it restored."""

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
    reverses: str | None = None
    # Of a grant: its id, which outlives its lot.
    grant_id: str | None = None

    @property
    def wallet_ids(self) -> tuple[str, ...]:
        """The wallets that took part."""
        return tuple(entry.wallet_id for entry in self.entries if entry.seq is not None)


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant's record: its lot as it was granted, and how it ended if it was not spent."""

    wallet_id: str
    amount: int
    lot: Lot
    ended: str | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be read before an operation can be decided, by id."""

    wallets: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    transactions: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Original:
    """A posted transaction that something refers to, and how much of it was reversed so far."""

    transaction: Transaction
    reversed_amount: int


class Book:
    """The wallets of one commit, and what is done to them. Each verb sees what the ones before it did; a refused one leaves no trace.

    `branch` gives a copy to try several verbs on; `absorb` takes its results over.
    """

    def __init__(
        self,
        wallets: Iterable[Wallet],
        now: datetime,
        *,
        holds: Mapping[str, Hold] | None = None,
        originals: Mapping[str, Original] | None = None,
        grants: Mapping[str, Grant] | None = None,
        references: Mapping[str, str] | None = None,
    ) -> None:
        self.now = now
        self.wallets = {wallet.id: wallet for wallet in wallets}
        self.holds = dict(holds or {})
        self.originals = dict(originals or {})
        self.grants = dict(grants or {})
        # Which transaction has used a reference, by wallet and reference.
        self.references = dict(references or {})
        # What a commit has to write, besides the answers.
        self.touched: set[str] = set()
        self.posted: list[Transaction] = []
        self.placed: list[Hold] = []
        self.issued: list[Grant] = []
        self.hold_changes: dict[str, dict[str, Any]] = {}
        self.grant_ends: dict[str, str | None] = {}
        self.crossings: list[Crossing] = []
        self._matured: set[str] = set()

    def branch(self, wallet_ids: Iterable[str]) -> Book:
        """A copy of some wallets, to try something on that may not be kept."""
        copy = Book((replace(self.wallets[i]) for i in set(wallet_ids) if i in self.wallets), self.now)
        copy.holds, copy.originals, copy.grants = dict(self.holds), dict(self.originals), dict(self.grants)
        copy.references, copy.grant_ends = dict(self.references), dict(self.grant_ends)
        copy._matured = set(self._matured)
        return copy

    def absorb(self, branch: Book) -> None:
        """Take over all that was done on `branch`."""
        self.wallets.update(branch.wallets)
        self.holds, self.originals, self.grants = branch.holds, branch.originals, branch.grants
        self.references, self.grant_ends, self._matured = branch.references, branch.grant_ends, branch._matured
        self.touched |= branch.touched
        self.posted += branch.posted
        self.placed += branch.placed
        self.issued += branch.issued
        self.hold_changes.update(branch.hold_changes)
        self.crossings += branch.crossings

    def wallet_ids(self, needs: Needs) -> set[str]:
        """The wallets that an operation with these `needs` may touch."""
        ids = {*needs.wallets, *(self.holds[i].wallet_id for i in needs.holds if i in self.holds)}
        for transaction_id in needs.transactions:
            if transaction_id in self.originals:
                ids.update(self.originals[transaction_id].transaction.wallet_ids)
        return ids

    # What verbs do

    def wallet(self, wallet_id: str, role: str) -> Wallet:
        """The wallet as it is now: what its clock has brought about has happened. NotFound says which side is missing."""
        wallet = self.wallets.get(wallet_id)
        if wallet is None:
            raise errors.wallet_not_found(role)
        if wallet_id not in self._matured:
            self._matured.add(wallet_id)
            self._mature(wallet)
        return wallet

    def active_wallet(self, wallet_id: str, role: str) -> Wallet:
        """The same, where credits may come and go; Forbidden for one that is frozen or closed."""
        wallet = self.wallet(wallet_id, role)
        if wallet.status != _ACTIVE:
            raise errors.wallet_not_active(wallet.status)
        return wallet

    def post(
        self, draft: Draft, *, hold: Hold | None = None, lot_id: str | None = None, restores: tuple[tuple[str, int], ...] = ()
    ) -> Transaction:
        """Carry `draft` out, or raise the refusal before anything has changed.

        `hold`: the hold that pays, as it is afterwards. `lot_id`: the only lot that may pay. `restores`: the (grant id,
        amount) that the destination gets back.
        """
        source, destination = self._parties(draft)
        asset = _asset(source, destination)
        if source is not None and hold is None and source.available < draft.amount:
            raise errors.insufficient_funds(source.available, draft.amount)
        if destination is not None and destination.settled + draft.amount > MAX_BALANCE:
            raise errors.balance_too_large()
        if destination is not None and (draft.terms is not None or restores) and len(destination.lots) + len(restores) >= MAX_LOTS:
            raise errors.too_many_lots(MAX_LOTS)
        created_at = max([self.now, *(wallet.posted_at for wallet in (source, destination) if wallet is not None)])
        if hold is not None:
            self._take_over(hold)
        transaction = self._record(draft, source, destination, asset, created_at, lot_id=lot_id, restores=restores)
        for wallet in (source, destination):
            if wallet is not None:
                self._watch(wallet)
        return transaction

    def promise(self, draft: Draft) -> Grant:
        """Note a grant that takes effect later; until then nothing is posted."""
        assert draft.terms is not None
        _, wallet = self._parties(draft)
        assert wallet is not None
        if len(wallet.lots) >= MAX_LOTS:
            raise errors.too_many_lots(MAX_LOTS)
        lot = replace(_new_lot(draft, max(self.now, wallet.posted_at)), pending=Promise(draft.reference, draft.memo, draft.metadata))
        wallet.lots = _ranked((*wallet.lots, lot))
        self.touched.add(wallet.id)
        return self._issue(wallet, draft.amount, lot)

    def end_grant(self, wallet: Wallet, grant_id: str) -> None:
        """Void a grant; what was left of it has been paid back before."""
        wallet.lots = tuple(lot for lot in wallet.lots if lot.grant_id != grant_id)
        self.touched.add(wallet.id)
        self.grant_ends[grant_id] = VOIDED

    def place(self, hold: Hold) -> None:
        """Reserve the amount of a new `hold`; the caller has checked that it is there."""
        wallet = self.wallets[hold.wallet_id]
        wallet.holds = (*wallet.holds, Reserve(hold.id, hold.remaining, hold.expires_at))
        self._count_held(wallet)
        _assert_covered(wallet)
        self.holds[hold.id] = hold
        self.placed.append(hold)
        self._watch(wallet)

    def change(self, hold: Hold) -> None:
        """Take `hold` over as it has become: its reserve follows from it."""
        self._take_over(hold)
        self._watch(self.wallets[hold.wallet_id])

    def _take_over(self, hold: Hold) -> None:
        wallet = self.wallets[hold.wallet_id]
        others = tuple(reserve for reserve in wallet.holds if reserve.hold_id != hold.id)
        own = (Reserve(hold.id, hold.remaining, hold.expires_at),) if hold.remaining else ()
        wallet.holds = others + own
        self._count_held(wallet)
        _assert_covered(wallet)
        self.holds[hold.id] = hold
        fields = ("amount", "captured", "status", "expires_at")
        self.hold_changes[hold.id] = {name: getattr(hold, name) for name in fields}

    def _count_held(self, wallet: Wallet) -> None:
        wallet.held = sum(reserve.remaining for reserve in wallet.holds)
        self.touched.add(wallet.id)

    def _watch(self, wallet: Wallet) -> None:
        """Let the alerts of `wallet` see its levels, once an operation is over: what it passes through meanwhile is no crossing."""
        if not wallet.alerts:
            return
        seen = []
        for alert in wallet.alerts:
            after = alert.look(wallet.settled if alert.on == SETTLED else wallet.available, self.now)
            if alert.armed and not after.armed:
                self.crossings.append(Crossing(after, wallet.id, wallet.owner_id, alert.level, self.now))
                self.touched.add(wallet.id)
            seen.append(after)
        wallet.alerts = tuple(seen)

    # What the clock does

    def _mature(self, wallet: Wallet) -> None:
        """Bring about what was due by now, in the order of time: holds end, grants take effect, grants expire."""
        due = {moment for moment in _moments(wallet) if moment <= self.now}
        for moment in sorted(due):
            self._end_holds(wallet, moment)
            for lot in [lot for lot in wallet.lots if lot.pending and lot.effective_at <= moment]:
                self._take_effect(wallet, lot, moment)
            for lot in [lot for lot in wallet.lots if not lot.pending and lot.expires_at is not None and lot.expires_at <= moment]:
                self._expire(wallet, lot, moment)
            self._watch(wallet)
        # Also when nothing was due: the credit limit may have been changed.
        self._watch(wallet)

    def _end_holds(self, wallet: Wallet, moment: datetime) -> None:
        ended = [reserve for reserve in wallet.holds if reserve.expires_at <= moment]
        for reserve in ended:
            self.hold_changes.setdefault(reserve.hold_id, {})["status"] = EXPIRED
            if reserve.hold_id in self.holds:
                self.holds[reserve.hold_id] = replace(self.holds[reserve.hold_id], status=EXPIRED)
        if ended:
            wallet.holds = tuple(reserve for reserve in wallet.holds if reserve.expires_at > moment)
            self._count_held(wallet)

    def _take_effect(self, wallet: Wallet, lot: Lot, moment: datetime) -> None:
        wallet.lots = tuple(other for other in wallet.lots if other.grant_id != lot.grant_id)
        # The largest balance is far away, but a grant that does not fit any more must not stop the wallet for ever.
        if wallet.settled + lot.remaining > MAX_BALANCE:
            self.grant_ends[lot.grant_id] = VOIDED
            self.touched.add(wallet.id)
            return
        promise = lot.pending
        assert promise is not None
        draft = Draft(GRANT, lot.remaining, ISSUANCE, wallet.id, promise.reference, promise.memo, promise.metadata)
        self._record(draft, None, wallet, wallet.asset, max(moment, wallet.posted_at), lot=replace(lot, pending=None))

    def _expire(self, wallet: Wallet, lot: Lot, moment: datetime) -> None:
        amount = _free_of(wallet, lot)
        if amount:
            draft = Draft(EXPIRY, amount, wallet.id, BREAKAGE)
            self._record(draft, wallet, None, wallet.asset, max(moment, wallet.posted_at), lot_id=lot.grant_id)
        if amount == lot.remaining:
            self.grant_ends[lot.grant_id] = EXPIRED

    # One transaction

    def _parties(self, draft: Draft) -> tuple[Wallet | None, Wallet | None]:
        """The wallets of both sides; None for a system account."""
        if draft.source == draft.destination:
            raise errors.same_wallet()
        parties = [
            None if is_system(account) else self.active_wallet(account, role)
            for account, role in ((draft.source, "source"), (draft.destination, "destination"))
        ]
        return parties[0], parties[1]

    def _record(
        self,
        draft: Draft,
        source: Wallet | None,
        destination: Wallet | None,
        asset: str,
        created_at: datetime,
        *,
        lot_id: str | None = None,
        restores: tuple[tuple[str, int], ...] = (),
        lot: Lot | None = None,
    ) -> Transaction:
        """Move what is allowed to move. `lot`: the one that takes effect by this."""
        allocations = _spend(source, draft.amount, self._payers(source, draft.type, lot_id)) if source is not None else ()
        entries = (
            _move(source, f"{draft.source}:{asset}", -draft.amount, created_at),
            _move(destination, f"{draft.destination}:{asset}", draft.amount, created_at),
        )
        if destination is not None and restores:
            allocations = (*allocations, *self._restore(destination, restores))
        is_new = draft.terms is not None
        if is_new:
            lot = _new_lot(draft, created_at)
        if lot is not None and destination is not None:
            allocations = _add_lot(destination, lot)
        _assert_sound(entries, source)
        transaction = Transaction(
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
            grant=lot,
            created_at=created_at,
            reverses=draft.reverses,
            grant_id=lot.grant_id if lot is not None else None,
        )
        self.touched.update(wallet.id for wallet in (source, destination) if wallet is not None)
        self.posted.append(transaction)
        if is_new and lot is not None and destination is not None:
            self._issue(destination, draft.amount, lot)
        return transaction

    def _payers(self, wallet: Wallet, kind: str, lot_id: str | None) -> list[Lot | None]:
        """The lots that pay, in their order; None stands for the funds without a grant.

        What has expired and is still there waits for the holds that count on it: it pays for a capture, or last.
        """
        lots = [lot for lot in wallet.lots if not lot.pending]
        if lot_id is not None:
            return [lot for lot in lots if lot.grant_id == lot_id]
        live = [lot for lot in lots if kind == CAPTURE or lot.expires_at is None or lot.expires_at > self.now]
        return [*live, None, *(lot for lot in lots if lot not in live)]

    def _issue(self, wallet: Wallet, amount: int, lot: Lot) -> Grant:
        grant = Grant(wallet.id, amount, lot)
        self.grants[lot.grant_id] = grant
        self.issued.append(grant)
        return grant

    def _restore(self, wallet: Wallet, parts: tuple[tuple[str, int], ...]) -> list[tuple[str, int]]:
        """Give `parts` back to the grants that had paid them; what a debt swallows, and a void grant's part, is plain funds."""
        restored = []
        for grant_id, part in parts:
            amount = min(part, max(0, wallet.settled) - _in_lots(wallet))
            if self.grant_ends.get(grant_id, self.grants[grant_id].ended) == VOIDED or amount <= 0:
                continue
            spent = replace(self.grants[grant_id].lot, remaining=0, pending=None)
            left = next((lot for lot in wallet.lots if lot.grant_id == grant_id), spent)
            others = tuple(lot for lot in wallet.lots if lot.grant_id != grant_id)
            wallet.lots = _ranked((*others, replace(left, remaining=left.remaining + amount)))
            self.grant_ends[grant_id] = None
            restored.append((grant_id, amount))
        # A grant that has expired meanwhile expires again, at the next look.
        self._matured.discard(wallet.id)
        return restored


def is_system(account: str) -> bool:
    """Whether `account` is one of ours and not a wallet."""
    return account.startswith("system:")


def state_at(wallet: Wallet, now: datetime) -> Wallet:
    """`wallet` as it is at `now`, with all that its clock has brought about and nobody has written down yet."""
    if not any(moment <= now for moment in _moments(wallet)):
        return wallet
    book = Book((replace(wallet),), now)
    return book.wallet(wallet.id, "source")


def next_event_at(wallet: Wallet, now: datetime) -> datetime | None:
    """When the clock next does something to `wallet`, which is up to date at `now`; None for never."""
    over = (lot.expires_at for lot in wallet.lots if lot.expires_at is not None and lot.expires_at <= now and _free_of(wallet, lot))
    return min((*over, *(moment for moment in _moments(wallet) if moment > now)), default=None)


def _moments(wallet: Wallet) -> Iterable[datetime]:
    """When something happens to `wallet` by itself."""
    yield from (reserve.expires_at for reserve in wallet.holds)
    for lot in wallet.lots:
        if lot.pending:
            yield lot.effective_at
        if lot.expires_at is not None:
            yield lot.expires_at


def _asset(source: Wallet | None, destination: Wallet | None) -> str:
    assets = {wallet.asset for wallet in (source, destination) if wallet is not None}
    if len(assets) != 1:
        raise errors.asset_mismatch()
    return assets.pop()


def _new_lot(draft: Draft, created_at: datetime) -> Lot:
    terms = draft.terms
    assert terms is not None
    effective_at = terms.effective_at or created_at
    return Lot(new_id("g"), draft.amount, terms.category, terms.priority, effective_at, terms.expires_at, created_at)


def _ranked(lots: Iterable[Lot]) -> tuple[Lot, ...]:
    return tuple(sorted(lots, key=lambda lot: lot.rank))


def _in_lots(wallet: Wallet) -> int:
    return sum(lot.remaining for lot in wallet.lots if not lot.pending)


def _free_of(wallet: Wallet, lot: Lot) -> int:
    """What of `lot` no open hold counts on: the first lots of the order would pay for those."""
    before = sum(other.remaining for other in wallet.lots if not other.pending and other.rank < lot.rank)
    return lot.remaining - min(lot.remaining, max(0, wallet.held - before))


def _add_lot(wallet: Wallet, lot: Lot) -> tuple[tuple[str, int], ...]:
    """Lots never hold more than is settled: of a grant to an overdrawn wallet, the debt takes its part first; that part."""
    remaining = min(lot.remaining, max(0, wallet.settled) - _in_lots(wallet))
    if remaining > 0:
        wallet.lots = _ranked((*wallet.lots, replace(lot, remaining=remaining)))
    return ((lot.grant_id, lot.remaining - remaining),) if remaining < lot.remaining else ()


def _spend(wallet: Wallet, amount: int, payers: list[Lot | None]) -> tuple[tuple[str, int], ...]:
    """Take `amount` from `payers` in their order; what they do not cover is credit. Which grant paid how much."""
    paid: dict[str, int] = {}
    plain = max(0, wallet.settled - _in_lots(wallet))
    for payer in payers:
        part = min(payer.remaining if payer is not None else plain, amount)
        amount -= part
        if payer is not None and part:
            paid[payer.grant_id] = part
    if paid:
        less = (replace(lot, remaining=lot.remaining - paid.get(lot.grant_id, 0)) for lot in wallet.lots)
        wallet.lots = tuple(lot for lot in less if lot.remaining)
    return tuple(paid.items())


def _move(wallet: Wallet | None, system_account: str, delta: int, created_at: datetime) -> Entry:
    if wallet is None:
        return Entry(system_account, delta, None, None, None)
    wallet.settled += delta
    wallet.seq += 1
    wallet.posted_at = created_at
    return Entry(wallet.id, delta, wallet.seq, wallet.settled, wallet.held)


def _assert_covered(wallet: Wallet) -> None:
    """Asserted in production too, when somebody reserves: by the clock alone holds only ever end."""
    if wallet.available < 0:
        raise LedgerInvariantError("a wallet holds more than it has")


def _assert_sound(entries: tuple[Entry, ...], debited: Wallet | None) -> None:
    """Asserted in production: better no commit than a wrong one."""
    if sum(entry.delta for entry in entries) != 0:
        raise LedgerInvariantError("entries do not sum to zero")
    if debited is not None and debited.available < 0:
        raise LedgerInvariantError("a wallet fell below its floor")

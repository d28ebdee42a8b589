"""The verbs of the ledger: what each needs to know, who may ask for it, and what it does to the book; without I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import ClassVar, Protocol

from core.modules.transactions_module import errors
from core.modules.transactions_module.ledger import (
    CAPTURE,
    CAPTURED,
    EXPIRED,
    EXPIRY,
    GRANT,
    ISSUANCE,
    MAX_HOLDS,
    OPEN,
    RELEASED,
    REVENUE,
    REVERSAL,
    TRANSFER,
    VOIDED,
    Book,
    Draft,
    Grant,
    Hold,
    Needs,
    Original,
    Transaction,
    Wallet,
    is_system,
)
from utils.ids import new_id


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. `privileged`: may move other people's credits; `sees_all`: may see their balances."""

    user_id: str
    privileged: bool
    sees_all: bool

    def may_move(self, wallet: Wallet) -> bool:
        return self.privileged or wallet.owner_id == self.user_id


@dataclass(frozen=True, slots=True)
class Result:
    """What an operation did: `made` is whether something came into being (201) or was changed (200)."""

    made: bool
    transaction: Transaction | None = None
    hold: Hold | None = None
    grant: Grant | None = None
    # Of the grant.
    remaining: int = 0


class Operation(Protocol):
    """One verb with its arguments. `carry_out` raises the refusal before anything has changed."""

    name: ClassVar[str]

    @property
    def needs(self) -> Needs: ...

    @property
    def reference_scope(self) -> str | None:
        """In which its reference must be unique for ever: the wallet that it addresses."""

    def carry_out(self, book: Book, actor: Actor) -> Result: ...


@dataclass(frozen=True, slots=True)
class Post:
    """A grant, a debit or a transfer."""

    name: ClassVar[str] = "post"
    draft: Draft

    @property
    def needs(self) -> Needs:
        return Needs(wallets=self.draft.wallet_ids)

    @property
    def reference_scope(self) -> str | None:
        return f"{self.draft.wallet_id}:{self.draft.reference}" if self.draft.reference is not None else None

    def carry_out(self, book: Book, actor: Actor) -> Result:
        """Post it; a grant that takes effect later is only noted."""
        draft = self.draft
        if draft.type == GRANT and not actor.privileged:
            raise errors.may_not_grant()
        wallet = book.wallets.get(draft.source)
        if not actor.privileged and (wallet is None or not actor.may_move(wallet)):
            raise errors.wallet_not_found("source")
        used_by = book.references.get(self.reference_scope) if self.reference_scope is not None else None
        if used_by is not None:
            raise errors.duplicate_reference(used_by)
        terms = draft.terms
        if terms is not None and terms.expires_at is not None and terms.expires_at <= max(book.now, terms.effective_at or book.now):
            raise errors.expires_too_early()
        if terms is not None and terms.effective_at is not None and terms.effective_at > book.now:
            promised = book.promise(draft)
            self._use_reference(book, promised.lot.grant_id)
            return Result(True, grant=promised, remaining=promised.amount)
        transaction = book.post(draft)
        self._use_reference(book, transaction.id)
        if transaction.grant_id is None:
            return Result(True, transaction)
        lots = book.wallets[draft.destination].lots
        left = sum(lot.remaining for lot in lots if lot.grant_id == transaction.grant_id)
        return Result(True, transaction, grant=book.grants[transaction.grant_id], remaining=left)

    def _use_reference(self, book: Book, used_by: str) -> None:
        if self.reference_scope is not None:
            book.references[self.reference_scope] = used_by


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """Reserve `amount` of a wallet for `seconds`."""

    name: ClassVar[str] = "hold"
    wallet_id: str
    amount: int
    seconds: int
    reason: str | None = None
    reference_scope: ClassVar[None] = None

    @property
    def needs(self) -> Needs:
        return Needs(wallets=(self.wallet_id,))

    def carry_out(self, book: Book, actor: Actor) -> Result:
        """Reserve the amount where it is available."""
        wallet = _movable(book, self.wallet_id, actor)
        if wallet.available < self.amount:
            raise errors.insufficient_funds(wallet.available, self.amount)
        if len(wallet.holds) >= MAX_HOLDS:
            raise errors.too_many_holds(MAX_HOLDS)
        hold = Hold(
            id=new_id("h"),
            wallet_id=wallet.id,
            owner_id=wallet.owner_id,
            amount=self.amount,
            captured=0,
            status=OPEN,
            reason=self.reason,
            placed_by_owner=wallet.owner_id == actor.user_id,
            expires_at=book.now + timedelta(seconds=self.seconds),
            created_at=book.now,
        )
        book.place(hold)
        return Result(True, hold=hold)


@dataclass(frozen=True, slots=True)
class Capture:
    """Pay `amount` (None: all that is left) out of a hold; `final` releases the rest."""

    name: ClassVar[str] = "capture"
    hold_id: str
    amount: int | None = None
    final: bool = False
    destination: str = REVENUE
    reference_scope: ClassVar[None] = None

    @property
    def needs(self) -> Needs:
        wallets = () if is_system(self.destination) else (self.destination,)
        return Needs(wallets=wallets, holds=(self.hold_id,))

    def carry_out(self, book: Book, actor: Actor) -> Result:
        """Pay, and keep or release the rest."""
        hold = _open_hold(book, self.hold_id, actor)
        amount = hold.remaining if self.amount is None else self.amount
        if amount > hold.remaining:
            raise errors.capture_exceeds_hold(hold.remaining)
        captured = replace(hold, captured=hold.captured + amount)
        if self.final or captured.remaining == 0:
            captured.status = CAPTURED
        draft = Draft(CAPTURE, amount, hold.wallet_id, self.destination, memo=hold.reason)
        return Result(False, book.post(draft, hold=captured), captured)


@dataclass(frozen=True, slots=True)
class Release:
    """Give what a hold still reserves back to its wallet."""

    name: ClassVar[str] = "release"
    hold_id: str
    reference_scope: ClassVar[None] = None

    @property
    def needs(self) -> Needs:
        return Needs(holds=(self.hold_id,))

    def carry_out(self, book: Book, actor: Actor) -> Result:
        """End the hold."""
        released = replace(_open_hold(book, self.hold_id, actor), status=RELEASED)
        book.change(released)
        return Result(False, hold=released)


@dataclass(frozen=True, slots=True)
class Adjust:
    """Change what a hold reserves in all, and how long it still lasts; None leaves it."""

    name: ClassVar[str] = "adjust"
    hold_id: str
    amount: int | None = None
    seconds: int | None = None
    reference_scope: ClassVar[None] = None

    @property
    def needs(self) -> Needs:
        return Needs(holds=(self.hold_id,))

    def carry_out(self, book: Book, actor: Actor) -> Result:
        """Reserve more or less; more only where it is available."""
        hold = _open_hold(book, self.hold_id, actor)
        amount = hold.amount if self.amount is None else self.amount
        if amount <= hold.captured:
            raise errors.adjust_below_captured(hold.captured)
        wallet = book.active_wallet(hold.wallet_id, "source")
        if amount - hold.amount > wallet.available:
            raise errors.insufficient_funds(wallet.available, amount - hold.amount)
        expires_at = hold.expires_at if self.seconds is None else book.now + timedelta(seconds=self.seconds)
        adjusted = replace(hold, amount=amount, expires_at=expires_at)
        book.change(adjusted)
        return Result(False, hold=adjusted)


@dataclass(frozen=True, slots=True)
class Reverse:
    """Take a transaction back, or `amount` of it; grants that had paid get their part back."""

    name: ClassVar[str] = "reverse"
    transaction_id: str
    amount: int | None = None
    reason: str | None = None
    reference_scope: ClassVar[None] = None

    @property
    def needs(self) -> Needs:
        return Needs(transactions=(self.transaction_id,))

    def carry_out(self, book: Book, actor: Actor) -> Result:
        """Post the way back."""
        original = self._original(book, actor)
        was, left = original.transaction, original.transaction.amount - original.reversed_amount
        if left == 0:
            raise errors.already_reversed()
        amount = left if self.amount is None else self.amount
        if amount > left:
            raise errors.reversal_exceeds_original(left)
        lot_id = was.grant_id if was.type == GRANT else None
        if lot_id is not None:
            _refuse_spent(book, was.destination, lot_id, amount)
        draft = Draft(REVERSAL, amount, _account(was.destination), _account(was.source), memo=self.reason, reverses=was.id)
        transaction = book.post(draft, lot_id=lot_id, restores=_parts(was, original.reversed_amount, amount))
        book.originals[was.id] = Original(was, original.reversed_amount + amount)
        return Result(True, transaction)

    def _original(self, book: Book, actor: Actor) -> Original:
        """The transaction that is meant, where the caller may take it back: the privileged, and the receiver of a transfer."""
        original = book.originals.get(self.transaction_id)
        if original is None:
            raise errors.transaction_not_found()
        was = original.transaction
        wallets = {side: book.wallets.get(getattr(was, side)) for side in ("source", "destination")}
        if not actor.privileged:
            if all(wallet is None or wallet.owner_id != actor.user_id for wallet in wallets.values()):
                raise errors.transaction_not_found()
            receiver = wallets["destination"]
            if was.type != TRANSFER or receiver is None or receiver.owner_id != actor.user_id:
                raise errors.not_yours_to_reverse()
        if was.type in (REVERSAL, EXPIRY):
            raise errors.not_reversible(was.type)
        return original


@dataclass(frozen=True, slots=True)
class VoidGrant:
    """End a grant: what is left of it goes back to where it came from."""

    name: ClassVar[str] = "void"
    wallet_id: str
    grant_id: str
    reference_scope: ClassVar[None] = None

    @property
    def needs(self) -> Needs:
        return Needs(wallets=(self.wallet_id,), grants=(self.grant_id,))

    def carry_out(self, book: Book, actor: Actor) -> Result:
        """Pay back what is left, and end the grant."""
        grant = book.grants.get(self.grant_id)
        wallet = book.active_wallet(self.wallet_id, "source")
        if grant is None or grant.wallet_id != wallet.id:
            raise errors.grant_not_found()
        lot = next((lot for lot in wallet.lots if lot.grant_id == self.grant_id), None)
        if lot is None:
            raise errors.grant_ended()
        transaction = None
        if not lot.pending:
            transaction = book.post(Draft(REVERSAL, lot.remaining, wallet.id, ISSUANCE, memo="grant voided"), lot_id=lot.grant_id)
        book.end_grant(wallet, self.grant_id)
        return Result(False, transaction, grant=replace(grant, ended=VOIDED))


@dataclass(frozen=True, slots=True)
class Tidy:
    """Write down what the clock has done to wallets that nobody has touched since."""

    name: ClassVar[str] = "tidy"
    wallet_ids: tuple[str, ...]
    reference_scope: ClassVar[None] = None

    @property
    def needs(self) -> Needs:
        return Needs(wallets=self.wallet_ids)

    def carry_out(self, book: Book, actor: Actor) -> Result:
        """Look at each wallet, which brings it up to date."""
        for wallet_id in self.wallet_ids:
            if wallet_id in book.wallets:
                book.wallet(wallet_id, "source")
                # Even if nothing was to be done: when the next thing happens is written down with the wallet.
                book.touched.add(wallet_id)
        return Result(False)


def _movable(book: Book, wallet_id: str, actor: Actor) -> Wallet:
    """An active wallet that `actor` may take from; to others there is none."""
    known = book.wallets.get(wallet_id)
    if known is None or not actor.may_move(known):
        raise errors.wallet_not_found("source")
    return book.active_wallet(wallet_id, "source")


def _open_hold(book: Book, hold_id: str, actor: Actor) -> Hold:
    """The hold, as it is by the clock: NotFound for those who may not know of it, Conflict when it has ended."""
    hold = book.holds.get(hold_id)
    if hold is None or not (actor.privileged or hold.owner_id == actor.user_id):
        raise errors.hold_not_found()
    # The owner of a wallet must not end what a shop has reserved in it.
    if not actor.privileged and not hold.placed_by_owner:
        raise errors.not_your_hold()
    book.wallet(hold.wallet_id, "source")
    hold = book.holds[hold_id]
    if hold.status == EXPIRED:
        raise errors.hold_expired()
    if hold.status != OPEN:
        raise errors.hold_closed(hold.status)
    return hold


def _refuse_spent(book: Book, wallet_id: str, grant_id: str, amount: int) -> None:
    """A grant is only taken back as far as it was not used."""
    wallet = book.wallet(wallet_id, "source")
    left = sum(lot.remaining for lot in wallet.lots if lot.grant_id == grant_id)
    if left < amount:
        raise errors.insufficient_funds(left, amount)


def _account(party: str) -> str:
    """The name of a system account without its asset; a wallet's id as it is."""
    return party.rsplit(":", 1)[0] if is_system(party) else party


def _parts(was: Transaction, reversed_amount: int, amount: int) -> tuple[tuple[str, int], ...]:
    """Which grants get how much back: the last that paid first, and before them what was paid without a grant."""
    if was.type == GRANT:
        return ()
    plain = was.amount - sum(part for _, part in was.allocations)
    skip, parts = max(0, reversed_amount - plain), []
    left = amount - max(0, min(plain - reversed_amount, amount))
    for grant_id, paid in reversed(was.allocations):
        part = min(max(0, paid - skip), left)
        skip = max(0, skip - paid)
        left -= part
        if part:
            parts.append((grant_id, part))
    return tuple(parts)

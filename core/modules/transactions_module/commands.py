"""Money verbs on their way through the engine: what is asked, and what is decided about it; without I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from core.modules.transactions_module import errors
from core.modules.transactions_module.alerts import Crossing
from core.modules.transactions_module.ledger import Book, Grant, Hold, Original, Transaction, Wallet
from core.modules.transactions_module.operations import Actor, Operation, Result
from core.modules.transactions_module.schemas import result_view, single_view
from tools.error_handling.errors import AppError

# Refusals that may end differently without anything in the ledger having changed; they are not remembered.
_NOT_STORED = frozenset({401, 403, 429})
_SYSTEM = "system"
_BEFORE_EVERYTHING = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Claim:
    """An idempotency key, bound to caller and route (`id`) and to what was asked (`fingerprint`)."""

    id: str
    fingerprint: str

    @classmethod
    def of(cls, user_id: str, route: str, key: str, request: Mapping[str, Any]) -> Claim:
        """`request`: the checked body and path parameters, in any order."""
        scope = hashlib.blake2b("\x1f".join((user_id, route, key)).encode(), digest_size=16).hexdigest()
        canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), default=str)
        return cls(scope, hashlib.sha256(canonical.encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class Batch:
    """How several operations of one request belong together; `client_refs` are the client's names for them."""

    atomic: bool
    client_refs: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """One request that moves money: one operation, or those of a batch. Only our own work has no claim, and dry runs."""

    operations: tuple[Operation, ...]
    actor: Actor
    claim: Claim | None
    request_id: str
    batch: Batch | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a command: `body` is the JSON text of the result, or of the problem."""

    status: int
    body: str
    replayed: bool = False
    transaction: Transaction | None = None
    stored: bool = True


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What an idempotency record holds."""

    fingerprint: str
    status: int
    body: str


@dataclass(slots=True)
class Snapshot:
    """What the commands of one commit need to know, all read at one point in time."""

    wallets: list[Wallet]
    answers: dict[str, StoredAnswer]
    references: dict[str, str]
    holds: dict[str, Hold] = field(default_factory=dict)
    originals: dict[str, Original] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Posting:
    """A transaction, and on whose account it came about."""

    transaction: Transaction
    actor_id: str
    request_id: str
    reference_scope: str | None


@dataclass(frozen=True, slots=True)
class Issue:
    """A grant that came into being, and the reference that it used up before anything was posted for it."""

    grant: Grant
    reference_scope: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """What somebody did that is no transaction, for the audit log."""

    action: str
    target: str
    actor_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class HoldStep:
    """What one operation made of a hold: `verb` is the operation's name, `hold` what it was then."""

    verb: str
    hold: Hold


@dataclass(slots=True)
class _Notes:
    """What is known about a commit's effects beside the book; a copy is what a dry run or a refused batch goes back to.

    `authors`: whose doing it was, by id of the transaction or grant; what is missing there was the clock's.
    """

    authors: dict[str, tuple[Command, Operation]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    hold_steps: list[HoldStep] = field(default_factory=list)

    def copy(self) -> _Notes:
        return _Notes(dict(self.authors), list(self.events), list(self.hold_steps))


@dataclass(slots=True)
class Outcome:
    """What one commit writes, and the verdict of each command in order. `wallets`: (version that was read, wallet)."""

    verdicts: list[Verdict]
    posted: list[Posting] = field(default_factory=list)
    claimed: list[tuple[Claim, Verdict]] = field(default_factory=list)
    wallets: list[tuple[int, Wallet]] = field(default_factory=list)
    placed: list[Hold] = field(default_factory=list)
    hold_changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    issued: list[Issue] = field(default_factory=list)
    grant_ends: dict[str, str | None] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    hold_steps: list[HoldStep] = field(default_factory=list)
    crossings: list[Crossing] = field(default_factory=list)
    decided_at: datetime = _BEFORE_EVERYTHING


def decide(snapshot: Snapshot, commands: Sequence[Command], now: datetime) -> Outcome:
    """Decide `commands` in order, each seeing what those before it did."""
    return _Decision(snapshot, now).run(commands)


class _Decision:
    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self._book = Book(
            snapshot.wallets,
            now,
            holds=snapshot.holds,
            originals=snapshot.originals,
            grants=snapshot.grants,
            references=snapshot.references,
        )
        self._versions = {wallet.id: wallet.version for wallet in snapshot.wallets}
        self._answers = dict(snapshot.answers)
        self._notes = _Notes()
        self._claimed: list[tuple[Claim, Verdict]] = []

    def run(self, commands: Iterable[Command]) -> Outcome:
        verdicts = [self._one(command) for command in commands]
        book = self._book
        return Outcome(
            verdicts=verdicts,
            posted=[self._posting(transaction) for transaction in book.posted],
            claimed=self._claimed,
            wallets=[(self._versions[wallet_id], book.wallets[wallet_id]) for wallet_id in sorted(book.touched)],
            placed=book.placed,
            hold_changes=book.hold_changes,
            issued=[self._issue(grant) for grant in book.issued],
            grant_ends=book.grant_ends,
            events=self._notes.events,
            hold_steps=self._notes.hold_steps,
            crossings=book.crossings,
            decided_at=book.now,
        )

    def _one(self, command: Command) -> Verdict:
        if command.dry_run:
            return self._try_out(command)
        if command.claim is None:
            return self._carry_out(command, self._book)
        known = self._answers.get(command.claim.id)
        if known is not None:
            if known.fingerprint != command.claim.fingerprint:
                return _refused(errors.key_reused())
            return Verdict(known.status, known.body, replayed=True)
        verdict = self._carry_out(command, self._book)
        if verdict.stored:
            self._answers[command.claim.id] = StoredAnswer(command.claim.fingerprint, verdict.status, verdict.body)
            self._claimed.append((command.claim, verdict))
        return verdict

    def _try_out(self, command: Command) -> Verdict:
        """A dry run: decided like the real one, on a copy."""
        notes = self._notes.copy()
        verdict = self._carry_out(command, self._branch(command))
        self._notes = notes
        return verdict if verdict.status >= 400 else Verdict(200, verdict.body)

    def _branch(self, command: Command) -> Book:
        ids = (self._book.wallet_ids(operation.needs) for operation in command.operations)
        return self._book.branch(set().union(*ids))

    def _carry_out(self, command: Command, book: Book) -> Verdict:
        if command.batch is None:
            return self._single(command, book)
        return self._all_or_none(command, command.batch, book) if command.batch.atomic else self._each(command, command.batch, book)

    def _single(self, command: Command, book: Book) -> Verdict:
        try:
            result = self._apply(command, command.operations[0], book)
        except AppError as refusal:
            return _refused(refusal)
        body = _json(single_view(result, _visible(result, book, command.actor), book.now))
        return Verdict(_status(result), body, transaction=result.transaction)

    def _each(self, command: Command, batch: Batch, book: Book) -> Verdict:
        """Every item by itself: what is refused does not stop the others."""
        rows = []
        for index, operation in enumerate(command.operations):
            row: dict[str, Any] = {"index": index, "client_ref": batch.client_refs[index]}
            try:
                result = self._apply(command, operation, book)
                row.update(status=_status(result), **result_view(result, _visible(result, book, command.actor), book.now))
            except AppError as refusal:
                row.update(status=refusal.status, error=refusal.problem())
            rows.append(row)
        return Verdict(200, _json({"results": rows}))

    def _all_or_none(self, command: Command, batch: Batch, book: Book) -> Verdict:
        branch = book.branch(set().union(*(book.wallet_ids(operation.needs) for operation in command.operations)))
        notes = self._notes.copy()
        rows = []
        for index, operation in enumerate(command.operations):
            try:
                result = self._apply(command, operation, branch)
            except AppError as refusal:
                self._notes = notes
                return _refused(errors.batch_failed(index, refusal.problem()), stored=refusal.status not in _NOT_STORED)
            shown = result_view(result, _visible(result, branch, command.actor), branch.now)
            rows.append({"index": index, "client_ref": batch.client_refs[index], "status": _status(result), **shown})
        book.absorb(branch)
        return Verdict(200, _json({"results": rows}))

    def _apply(self, command: Command, operation: Operation, book: Book) -> Result:
        result = operation.carry_out(book, command.actor)
        author = (command, operation)
        if result.hold is not None:
            self._notes.hold_steps.append(HoldStep(operation.name, result.hold))
        if result.transaction is not None:
            self._notes.authors[result.transaction.id] = author
            return result
        target = result.hold.id if result.hold is not None else None
        if result.grant is not None:
            target = result.grant.lot.grant_id
            self._notes.authors[target] = author
        if target is not None:
            self._notes.events.append(Event(f"ledger.{operation.name}", target, command.actor.user_id, command.request_id))
        return result

    def _posting(self, transaction: Transaction) -> Posting:
        author = self._notes.authors.get(transaction.id)
        if author is None:
            return Posting(transaction, _SYSTEM, "", None)
        command, operation = author
        return Posting(transaction, command.actor.user_id, command.request_id, operation.reference_scope)

    def _issue(self, grant: Grant) -> Issue:
        author = self._notes.authors.get(grant.lot.grant_id)
        return Issue(grant, author[1].reference_scope if author is not None else None)


def _status(result: Result) -> int:
    return 201 if result.made else 200


def _visible(result: Result, book: Book, actor: Actor) -> set[str]:
    """The wallets whose running balances the caller may see."""
    if result.transaction is None:
        return set()
    return {i for i in result.transaction.wallet_ids if actor.sees_all or book.wallets[i].owner_id == actor.user_id}


def _json(view: Mapping[str, Any]) -> str:
    return json.dumps(view, separators=(",", ":"))


def _refused(refusal: AppError, *, stored: bool | None = None) -> Verdict:
    keep = refusal.status not in _NOT_STORED if stored is None else stored
    return Verdict(refusal.status, _json(refusal.problem()), stored=keep)

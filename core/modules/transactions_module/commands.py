"""Money verbs on their way through the engine: what is asked, and what is decided about it; without I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.modules.transactions_module import errors
from core.modules.transactions_module.ledger import Book, Draft, Transaction, Wallet
from core.modules.transactions_module.schemas import posted_view
from tools.error_handling.errors import AppError

# Refusals that may end differently without anything in the ledger having changed; they are not remembered.
_NOT_STORED = frozenset({401, 403, 429})


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. `privileged`: may move other people's credits; `sees_all`: may see their balances."""

    user_id: str
    privileged: bool
    sees_all: bool


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
class Command:
    """One money verb. Without a claim it is a dry run."""

    draft: Draft
    actor: Actor
    claim: Claim | None
    request_id: str

    @property
    def reference_scope(self) -> str | None:
        """In which its reference must be unique for ever: the wallet that it addresses."""
        return f"{self.draft.wallet_id}:{self.draft.reference}" if self.draft.reference is not None else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a command: `body` is the JSON text of the result, or of the problem."""

    status: int
    body: str
    replayed: bool = False
    transaction: Transaction | None = None


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


@dataclass(slots=True)
class Outcome:
    """What one commit writes (`posted`, `claimed`, `wallets`), and the verdict of each command in order."""

    verdicts: list[Verdict]
    posted: list[tuple[Command, Transaction]]
    claimed: list[tuple[Claim, Verdict]]
    wallets: list[tuple[int, Wallet]]


def decide(snapshot: Snapshot, commands: Sequence[Command], now: datetime) -> Outcome:
    """Decide `commands` in order, each seeing what those before it did."""
    return _Decision(snapshot, now).run(commands)


class _Decision:
    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self._book = Book(snapshot.wallets, now)
        self._versions = {wallet.id: (wallet.version, wallet.seq) for wallet in snapshot.wallets}
        self._answers = dict(snapshot.answers)
        self._references = dict(snapshot.references)
        self._posted: list[tuple[Command, Transaction]] = []
        self._claimed: list[tuple[Claim, Verdict]] = []

    def run(self, commands: Iterable[Command]) -> Outcome:
        verdicts = [self._one(command) for command in commands]
        changed = [(version, self._book.wallets[i]) for i, (version, seq) in self._versions.items() if self._book.wallets[i].seq != seq]
        return Outcome(verdicts, self._posted, self._claimed, changed)

    def _one(self, command: Command) -> Verdict:
        if command.claim is None:
            return self._try_out(command)
        known = self._answers.get(command.claim.id)
        if known is not None:
            if known.fingerprint != command.claim.fingerprint:
                return _refused(errors.key_reused())
            return Verdict(known.status, known.body, replayed=True)
        verdict = self._carry_out(command)
        if verdict.status not in _NOT_STORED:
            self._answers[command.claim.id] = StoredAnswer(command.claim.fingerprint, verdict.status, verdict.body)
            self._claimed.append((command.claim, verdict))
        return verdict

    def _carry_out(self, command: Command) -> Verdict:
        try:
            self._check(command)
            transaction = self._book.post(command.draft)
        except AppError as refusal:
            return _refused(refusal)
        if command.reference_scope is not None:
            self._references[command.reference_scope] = transaction.id
        self._posted.append((command, transaction))
        return Verdict(201, self._render(command, transaction), transaction=transaction)

    def _try_out(self, command: Command) -> Verdict:
        """A dry run: decided like the real one, on a copy."""
        try:
            self._check(command)
            transaction = self._book.fork(command.draft.wallet_ids).post(command.draft)
        except AppError as refusal:
            return _refused(refusal)
        return Verdict(200, self._render(command, transaction))

    def _check(self, command: Command) -> None:
        """Whether the caller may take from the source, and whether the reference is new."""
        wallet = self._book.wallets.get(command.draft.source)
        if not command.actor.privileged and (wallet is None or wallet.owner_id != command.actor.user_id):
            raise errors.wallet_not_found("source")
        used_by = self._references.get(command.reference_scope) if command.reference_scope is not None else None
        if used_by is not None:
            raise errors.duplicate_reference(used_by)

    def _render(self, command: Command, transaction: Transaction) -> str:
        """The answer as JSON text, with running balances only where the caller may see them."""
        visible = {i for i in command.draft.wallet_ids if command.actor.sees_all or self._book.wallets[i].owner_id == command.actor.user_id}
        return json.dumps(posted_view(transaction, visible), separators=(",", ":"))


def _refused(error: AppError) -> Verdict:
    return Verdict(error.status, json.dumps(error.problem(), separators=(",", ":")))

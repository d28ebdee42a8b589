"""A LedgerStore in memory, held to the same contract as the one in MongoDB."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from core.modules.transactions_module.commands import Command, Outcome, Snapshot, StoredAnswer
from core.modules.transactions_module.ledger import Grant, Hold, Original, Transaction, Wallet


class MemoryLedger:
    """What a commit decides is kept as a whole; of a commit that fails, nothing."""

    def __init__(self, *wallets: Wallet) -> None:
        self.wallets = {wallet.id: wallet for wallet in wallets}
        self.answers: dict[str, StoredAnswer] = {}
        self.references: dict[str, str] = {}
        self.transactions: list[Transaction] = []
        self.holds: dict[str, Hold] = {}
        self.grants: dict[str, Grant] = {}
        self._lock = threading.Lock()

    def commit(self, commands: Sequence[Command], decide: Callable[[Snapshot], Outcome]) -> Outcome:
        with self._lock:
            outcome = decide(self._snapshot(commands))
            self._write(outcome)
            return outcome

    def reversed_amount(self, transaction_id: str) -> int:
        return sum(transaction.amount for transaction in self.transactions if transaction.reverses == transaction_id)

    def _snapshot(self, commands: Sequence[Command]) -> Snapshot:
        operations = [operation for command in commands for operation in command.operations]
        claims = {command.claim.id for command in commands if command.claim is not None}
        scopes = {operation.reference_scope for operation in operations}
        holds = {i: self.holds[i] for operation in operations for i in operation.needs.holds if i in self.holds}
        named = {i for operation in operations for i in operation.needs.transactions}
        originals = {t.id: Original(replace(t, grant=None), self.reversed_amount(t.id)) for t in self.transactions if t.id in named}
        ids = {i for operation in operations for i in operation.needs.wallets} | {hold.wallet_id for hold in holds.values()}
        ids |= {i for original in originals.values() for i in original.transaction.wallet_ids}
        grants = {i for operation in operations for i in operation.needs.grants}
        grants |= {i for original in originals.values() for i, _ in original.transaction.allocations}
        return Snapshot(
            [replace(self.wallets[wallet_id]) for wallet_id in sorted(ids & set(self.wallets))],
            {claim: answer for claim, answer in self.answers.items() if claim in claims},
            {scope: used_by for scope, used_by in self.references.items() if scope in scopes},
            holds,
            originals,
            {i: self.grants[i] for i in grants if i in self.grants},
        )

    def _write(self, outcome: Outcome) -> None:
        for version, wallet in outcome.wallets:
            assert self.wallets[wallet.id].version == version
            self.wallets[wallet.id] = replace(wallet, version=version + 1)
        for posting in outcome.posted:
            self.transactions.append(posting.transaction)
            self._use_reference(posting.reference_scope, posting.transaction.id)
        for issue in outcome.issued:
            self.grants[issue.grant.lot.grant_id] = issue.grant
            if issue.grant.lot.pending is not None:
                self._use_reference(issue.reference_scope, issue.grant.lot.grant_id)
        self.holds.update((hold.id, hold) for hold in outcome.placed)
        for hold_id, fields in outcome.hold_changes.items():
            self.holds[hold_id] = replace(self.holds[hold_id], **fields)
        for grant_id, ended in outcome.grant_ends.items():
            self.grants[grant_id] = replace(self.grants[grant_id], ended=ended)
        for claim, verdict in outcome.claimed:
            assert claim.id not in self.answers
            self.answers[claim.id] = StoredAnswer(claim.fingerprint, verdict.status, verdict.body)

    def _use_reference(self, scope: str | None, used_by: str) -> None:
        if scope is not None:
            assert self.references.setdefault(scope, used_by) == used_by

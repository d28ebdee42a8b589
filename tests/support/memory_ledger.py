"""A LedgerStore in memory, held to the same contract as the one in MongoDB."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from core.modules.transactions_module.commands import Command, Outcome, Snapshot, StoredAnswer
from core.modules.transactions_module.ledger import Transaction, Wallet


class MemoryLedger:
    """What a commit decides is kept as a whole; of a commit that fails, nothing."""

    def __init__(self, *wallets: Wallet) -> None:
        self.wallets = {wallet.id: wallet for wallet in wallets}
        self.answers: dict[str, StoredAnswer] = {}
        self.references: dict[str, str] = {}
        self.transactions: list[Transaction] = []
        self._lock = threading.Lock()

    def commit(self, commands: Sequence[Command], decide: Callable[[Snapshot], Outcome]) -> Outcome:
        with self._lock:
            outcome = decide(self._snapshot(commands))
            self._write(outcome)
            return outcome

    def _snapshot(self, commands: Sequence[Command]) -> Snapshot:
        ids = {wallet_id for command in commands for wallet_id in command.draft.wallet_ids}
        claims = {command.claim.id for command in commands if command.claim is not None}
        scopes = {command.reference_scope for command in commands}
        return Snapshot(
            [replace(self.wallets[wallet_id]) for wallet_id in sorted(ids & set(self.wallets))],
            {claim: answer for claim, answer in self.answers.items() if claim in claims},
            {scope: used_by for scope, used_by in self.references.items() if scope in scopes},
        )

    def _write(self, outcome: Outcome) -> None:
        for version, wallet in outcome.wallets:
            assert self.wallets[wallet.id].version == version
            self.wallets[wallet.id] = replace(wallet, version=version + 1)
        for command, transaction in outcome.posted:
            self.transactions.append(transaction)
            if command.reference_scope is not None:
                assert self.references.setdefault(command.reference_scope, transaction.id) == transaction.id
        for claim, verdict in outcome.claimed:
            assert claim.id not in self.answers
            self.answers[claim.id] = StoredAnswer(claim.fingerprint, verdict.status, verdict.body)

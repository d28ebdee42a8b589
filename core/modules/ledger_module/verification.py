"""A whole verification of the ledger, in small steps and against a ledger in which money moves meanwhile.

What a reading compares was either committed together and never changes (a transaction, its entries, its seal), or is read at one
moment (a wallet and its holds), or is looked at only as far as that moment knew it (a wallet's entries up to its own number).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from core.chain import Problem, anchor_problems, broken_link, head_of, parse_head, rows_until, upto
from core.modules.ledger_module.checks import MALFORMED, Finding, Unsound, WalletAudit, check_transaction
from core.modules.ledger_module.repository import AFTER_SYSTEM, FIRST, SYSTEM, Census, ProofRepository, Totals, available_soon, decoded
from utils.clock import rfc3339, utc_now

if TYPE_CHECKING:
    from bson import Timestamp

_FINDINGS = 100
_COLLECTIONS = ("transactions", "entries", "wallets", "holds", "grants")
_CHECKED = ("transactions", "entries", "wallets", "holds", "references", "reversals")
# The clocks of those who write and of who verifies may differ by so much.
_CLOCKS = timedelta(minutes=5)


@dataclass
class LedgerReport:
    """What a verification has looked at, and what it found. `head` as for the audit log; `newest`: the last stamp it has seen."""

    started_at: datetime = field(default_factory=utc_now)
    finished_at: datetime | None = None
    checked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_CHECKED, 0))
    sealed: int = 0
    head: str = head_of(None)
    newest: Timestamp = FIRST
    census: Census | None = None
    # What all transactions up to the stamp `sealed_upto` make.
    totals: Totals = field(default_factory=Totals)
    sealed_upto: Timestamp = FIRST
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings

    def count(self, what: str, number: int) -> None:
        """So many more rows were checked."""
        self.checked[what] += number

    def find(self, collection: str, row_id: Any, what: str) -> None:
        """Note what is wrong with a row."""
        if len(self.findings) < _FINDINGS:
            self.findings.append(Finding(collection, str(row_id)[:64] if row_id is not None else None, what))

    def view(self) -> dict[str, Any]:
        """As JSON: `{ok, complete, checked, sealed, head, verified_through, ..., first_bad, problems}`."""
        problems = [asdict(finding) for finding in self.findings]
        return {
            "ok": self.ok,
            "complete": self.finished_at is not None,
            "checked": self.checked,
            "sealed": self.sealed,
            "unsealed": self.checked["transactions"] - self.sealed,
            "head": self.head,
            "verified_through": rfc3339(self.newest.as_datetime()) if self.newest != FIRST else None,
            "started_at": rfc3339(self.started_at),
            "finished_at": rfc3339(self.finished_at) if self.finished_at is not None else None,
            "sums": self.census.sums if self.census is not None else {},
            "first_bad": problems[0] if problems else None,
            "problems": problems,
        }


class Verification:
    """One verification: go through `steps`, and `report` grows. Each step looks at `size` rows, or is one question to the database.

    `anchor`, a head of an earlier time: the chain must still go through it. Raises ValueError for one that cannot be read.
    """

    def __init__(self, ledger: ProofRepository, size: int, anchor: str = "") -> None:
        self._ledger = ledger
        self._size = size
        self._pinned = parse_head(anchor) if anchor else None
        self.report = LedgerReport()

    def steps(self) -> Iterator[int]:
        """Do it; after each step how many rows it has looked at."""
        yield from self._sealed()
        self._take_stock()
        yield 0
        yield from self._unsealed()
        yield from self._wallets()
        yield from self._references()
        yield from self._reversals()
        if self._has_strays():
            yield from self._strays()
        self.report.finished_at = utc_now()

    def _guarded(self, collection: str, row_id: Any, check: Callable[[], Any]) -> None:
        """Make a check, and note what it says; also of a row that it cannot even read."""
        try:
            check()
        except Unsound as error:
            self.report.find(collection, row_id, str(error))
        except MALFORMED:
            self.report.find(collection, row_id, "it has not the shape of such a row")

    # The chain, and what it seals

    def _sealed(self) -> Iterator[int]:
        chain, report = self._ledger.chain, self.report
        previous: Mapping[str, Any] | None = None
        while (seal := chain.seal_after(previous["_id"] if previous is not None else 0)) is not None:
            rows: Sequence[Any] = ()
            try:
                rows = chain.rows_of(seal)
                problems = broken_link(seal, previous) or chain.compare(seal, rows)
                self._note(seal["_id"], [*problems, *anchor_problems(seal, self._pinned)])
                report.sealed, report.head, report.sealed_upto = rows_until(seal), head_of(seal), upto(seal)
            except MALFORMED:
                report.find("ledger_seals", seal["_id"], "it has not the shape of a seal")
            yield from self._transactions(rows, sealed=True)
            previous = seal
        if self._pinned is not None and self._pinned[0] > report.sealed:
            report.find("ledger_seals", None, "the chain ends before the anchor")
        self._note(None, chain.rows_without_stamp(report.sealed))

    def _note(self, seal_id: Any, problems: Iterable[Problem]) -> None:
        for each in problems:
            if each.kind.startswith("seal"):
                self.report.find("ledger_seals", seal_id, f"{each.kind}, before transaction number {each.seq}")
            else:
                self.report.find("transactions", each.row, f"{each.kind}, number {each.seq}")

    def _unsealed(self) -> Iterator[int]:
        after, until = self.report.sealed_upto, self.report.newest
        while rows := self._ledger.tail(after, until, self._size):
            yield from self._transactions(rows)
            after = rows[-1]["stamp"]

    def _transactions(self, rows: Sequence[Any], *, sealed: bool = False) -> Iterator[int]:
        for start in range(0, len(rows), self._size):
            part = rows[start : start + self._size]
            self.check_rows(part, sealed=sealed)
            yield len(part)

    def check_rows(self, rows: Sequence[Any], *, sealed: bool = False) -> None:
        """Check some transactions as they lie in the database, each by itself and against its entries."""
        sound = []
        for raw in rows:
            row = decoded(raw)
            try:
                check_transaction(row)
                sound.append(row)
                if sealed:
                    self.report.totals.add(row)
            except Unsound as error:
                self.report.find("transactions", row["_id"], str(error))
            except MALFORMED:
                self.report.find("transactions", row["_id"], "it has not the shape of a transaction")
        self.report.count("transactions", len(rows))
        if sound:
            for entry_id, what in self._ledger.wrong_entries(sound):
                self.report.find("entries", entry_id, what)

    # Sums

    def _take_stock(self) -> None:
        report = self.report
        census = report.census = self._ledger.census(report.totals, report.sealed_upto)
        report.newest = census.newest
        for asset, total in census.sums.items():
            if total:
                report.find("wallets", None, f"all accounts of {asset} hold {total} together, and not 0")
        held = sum(each["held"] for each in census.wallets.values())
        if held != census.open_amount:
            report.find("holds", None, f"the open holds reserve {census.open_amount}, the wallets {held}")
        for collection in _COLLECTIONS:
            for row_id in self._ledger.misnamed(collection, _FINDINGS):
                report.find(collection, row_id, "its id is none of ours")

    def _has_strays(self) -> bool:
        """Every transaction has its entries by now. Are there more than those?"""
        census = self.report.census
        assert census is not None
        expected = census.expected
        return (expected.wallet_entries, expected.system_entries) != (census.wallet_entries, census.system_entries)

    def _strays(self) -> Iterator[int]:
        after, before = "", len(self.report.findings)
        while entries := self._ledger.entries(after, None, self._size):
            for entry_id in self._ledger.strays(entries):
                self.report.find("entries", entry_id, "no transaction has it")
            after = entries[-1]["_id"]
            yield 0
        if len(self.report.findings) == before and self.report.ok:
            self.report.find("wallets", None, "the wallets have counted more entries than the transactions make")

    # Wallets

    def _wallets(self) -> Iterator[int]:
        after = ""
        while True:
            wallets, holds, grants = self._ledger.wallets(after, self._size)
            audits = {wallet["_id"]: WalletAudit(wallet) for wallet in wallets}
            for each in holds:
                self._holds(audits.get(each["_id"]), each)
            before = f"{wallets[-1]['_id']};" if len(wallets) == self._size else None
            yield from self._entries(audits, f"{after};" if after else "", before)
            for wallet_id, audit in audits.items():
                self._guarded("wallets", wallet_id, lambda: self._wallet(audit, grants))  # noqa: B023  it is called here
            self.report.count("wallets", len(wallets))
            yield len(wallets)
            if before is None:
                return
            after = wallets[-1]["_id"]

    def _holds(self, audit: WalletAudit | None, holds: Mapping[str, Any]) -> None:
        self.report.count("holds", holds["holds"])
        if audit is None:
            self.report.find("holds", holds["first"], "there is no such wallet")
            return
        try:
            for hold_id, what in audit.take_holds(holds):
                self.report.find("holds", hold_id, what)
        except MALFORMED:
            self.report.find("holds", holds["first"], "a hold of this wallet has not the shape of one")

    def _wallet(self, audit: WalletAudit, grants: Mapping[str, Any]) -> None:
        now = utc_now() + _CLOCKS
        for what in audit.check_wallet(grants, lambda wallet: available_soon(wallet, now)):
            self.report.find("wallets", audit.wallet["_id"], what)

    def _entries(self, audits: Mapping[str, WalletAudit], after: str, before: str | None) -> Iterator[int]:
        """The entries of some wallets, and of whoever else has ids between theirs."""
        for lower, upper in _without_system(after, before):
            while entries := self._ledger.entries(lower, upper, self._size):
                self._check_entries(audits, entries)
                lower = entries[-1]["_id"]  # noqa: PLW2901  the next page begins there
                yield len(entries)

    def _check_entries(self, audits: Mapping[str, WalletAudit], entries: Sequence[Mapping[str, Any]]) -> None:
        self.report.count("entries", len(entries))
        later, unknown = [], []
        for entry in entries:
            audit = audits.get(entry["_id"].rpartition(":")[0])
            if audit is None:
                unknown.append(entry)
                continue
            try:
                if audit.take_entry(entry):
                    later.append(entry)
            except Unsound as error:
                self.report.find("entries", entry["_id"], str(error))
            except MALFORMED:
                self.report.find("entries", entry["_id"], "it has not the shape of an entry")
        # Posted since the wallet was read, or slipped in.
        for entry_id in self._ledger.strays(later) if later else ():
            self.report.find("entries", entry_id, "no transaction has it")
        if unknown:
            known = self._ledger.known_wallets([entry["_id"].rpartition(":")[0] for entry in unknown])
            for entry in unknown:
                if entry["_id"].rpartition(":")[0] not in known:
                    self.report.find("entries", entry["_id"], "there is no such wallet")

    # What must be unique, and what must not be too much

    def _references(self) -> Iterator[int]:
        """A grant that takes effect later has used its reference up, as a transaction has."""
        streams = [self._scopes(collection) for collection in ("grants", "transactions")]
        last = None
        for number, (scope, collection, row_id) in enumerate(heapq.merge(*streams), 1):
            if scope == last:
                self.report.find(collection, row_id, "its reference was used before in this wallet")
            last = scope
            self.report.count("references", 1)
            if number % self._size == 0:
                yield 0

    def _scopes(self, collection: str) -> Iterator[tuple[str, str, str]]:
        for scope, rows in self._ledger.groups(collection, "reference_scope", (), self._size):
            for row in rows:
                yield scope, collection, row["_id"]

    def _reversals(self) -> Iterator[int]:
        page: dict[str, int] = {}
        for original, rows in self._ledger.groups("transactions", "reverses", ("amount",), self._size):
            self.report.count("reversals", len(rows))
            page[original] = sum(row["amount"] for row in rows)
            if len(page) >= self._size:
                self._check_reversals(page)
                page = {}
                yield 0
        if page:
            self._check_reversals(page)
            yield 0

    def _check_reversals(self, reversed_amounts: Mapping[str, int]) -> None:
        amounts = self._ledger.amounts(list(reversed_amounts))
        for original, amount in reversed_amounts.items():
            if original not in amounts:
                self.report.find("transactions", original, "it was reversed, and is not there")
            elif amount > amounts[original]:
                self.report.find("transactions", original, "more of it was reversed than it moved")


def _without_system(after: str, before: str | None) -> list[tuple[str, str | None]]:
    """The range of ids between two, the system's accounts left out: their entries are compared with their transactions."""
    if after >= AFTER_SYSTEM or (before is not None and before <= SYSTEM):
        return [(after, before)]
    return [(after, SYSTEM), (AFTER_SYSTEM, before)]

"""What admins may know about the ledger as a whole, and what they may do with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from core.modules.ledger_module import errors
from core.modules.ledger_module.checker import VERIFICATION
from core.modules.ledger_module.export import export
from core.modules.ledger_module.importer import Importer
from core.modules.ledger_module.repository import FIRST, Census, ProofRepository, Totals
from core.modules.ledger_module.store import LedgerStore
from core.modules.ledger_module.verification import LedgerReport, Verification
from utils import deadline
from utils.clock import rfc3339

# What a request looks at by itself, and in which portions.
_NEWEST, _ROWS_A_STEP = 1000, 100
_ROWS_A_COMMAND = 1000
_CENSUS_SECONDS = 4.0


class LedgerService:
    """Answers from the last whole verification in the background and from what came since, and moves whole ledgers."""

    def __init__(self, proofs: ProofRepository, store: LedgerStore, importer: Importer) -> None:
        self._proofs = proofs
        self._store = store
        self._importer = importer

    def verify_now(self, progress: Callable[[int, int], None], anchor: str = "") -> LedgerReport:
        """Verify everything; `progress` gets (rows done, rows in all). Conflict during an import; ValueError: an unreadable anchor."""
        self._refuse_import()
        verification = Verification(self._proofs, _ROWS_A_COMMAND, anchor)
        total, done = self._proofs.size(), 0
        for rows in verification.steps():
            done += rows
            progress(done, max(total, done))
        progress(done, done)
        return verification.report

    def verified(self) -> dict[str, Any]:
        """The last whole verification, as its view, and with `newest` what came since: so much of it as a request can look at.

        `complete`: all that is there now was looked at, by one of them.
        """
        state = self._proofs.state(VERIFICATION)
        since = state["newest"] if state is not None else FIRST
        report = self._newest(since)
        rows = report.checked["transactions"]
        view = _view(state) if state is not None else LedgerReport().view()
        problems = [*view["problems"], *report.view()["problems"]]
        through = report.newest if rows else since
        return {
            **view,
            "ok": not problems,
            "complete": state is not None and rows < _NEWEST,
            "verified_through": rfc3339(through.as_datetime()) if through != FIRST else None,
            "newest": {"transactions": rows, "ok": report.ok},
            "first_bad": problems[0] if problems else None,
            "problems": problems,
        }

    def _newest(self, since: Any) -> LedgerReport:
        verification = Verification(self._proofs, _ROWS_A_STEP)
        report = verification.report
        report.newest = since
        while report.checked["transactions"] < _NEWEST and (rows := self._proofs.tail(report.newest, None, _ROWS_A_STEP)):
            verification.check_rows(rows)
            report.newest = rows[-1]["stamp"]
        return report

    def invariants(self) -> dict[str, Any]:
        """Sums per asset, the wallets against the system's accounts, open holds against what is held: each with `ok`, at one moment."""
        state = self._proofs.state(VERIFICATION)
        totals, after = (_totals(state["totals"]), state["sealed_upto"]) if state is not None else (Totals(), FIRST)
        return _invariants(self._proofs.census(totals, after, deadline.remaining(_CENSUS_SECONDS)))

    def export(self) -> Iterator[str]:
        """The whole ledger in pieces of lines; Conflict while it is being imported."""
        self._refuse_import()
        return export(self._store)

    def lines(self) -> int:
        """About how many lines an export has."""
        return self._proofs.size()

    def load(self, lines: Iterable[bytes], progress: Callable[[int], None] = lambda _rows: None) -> dict[str, Any]:
        """Import an export into this empty ledger; see `Importer.load`."""
        return self._importer.load(lines, progress)

    def _refuse_import(self) -> None:
        if self._store.epoch() is None:
            raise errors.importing()


def _view(state: Mapping[str, Any]) -> dict[str, Any]:
    """What was remembered of a verification, without what is for us only."""
    return {name: value for name, value in state.items() if name not in ("_id", "newest", "sealed_upto", "totals")}


def _totals(stored: Mapping[str, Any]) -> Totals:
    totals = Totals(transactions=stored["transactions"])
    for row in stored["accounts"]:
        totals.move(row["asset"], row["account"], row["total"])
    totals.wallet_entries, totals.system_entries = stored["wallet_entries"], stored["system_entries"]
    return totals


def _invariants(census: Census) -> dict[str, Any]:
    expected, wallets = census.expected, census.wallets
    held = sum(each["held"] for each in wallets.values())
    reserved = sum(each["reserved"] for each in wallets.values())
    assets = [
        {
            "asset": asset,
            "wallets": wallets.get(asset, {}).get("settled", 0),
            "system": census.system(asset),
            "sum": total,
            "ok": total == 0,
        }
        for asset, total in census.sums.items()
    ]
    holds = {"held": held, "reserved": reserved, "open": census.open_amount, "count": census.open_holds}
    entries = {"of_wallets": census.wallet_entries, "of_system": census.system_entries}
    counts = {
        "transactions": expected.transactions,
        "wallets": sum(each["wallets"] for each in wallets.values()),
        "entries": entries,
        "ok": (expected.wallet_entries, expected.system_entries) == (census.wallet_entries, census.system_entries),
    }
    holds_ok = held == reserved == census.open_amount
    return {
        "ok": holds_ok and counts["ok"] and all(each["ok"] for each in assets),
        "as_of": rfc3339(census.as_of),
        "assets": assets,
        "holds": {**holds, "ok": holds_ok},
        "counts": counts,
    }

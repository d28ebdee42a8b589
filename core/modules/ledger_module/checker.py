"""Verifies the ledger round and round in the background: one worker of all, a few rows at a time, between the requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from core import metrics
from core.modules.ledger_module.checks import Finding
from core.modules.ledger_module.repository import ProofRepository
from core.modules.ledger_module.verification import LedgerReport, Verification
from core.outbox import Notice, outbox_row
from tools.error_handling.errors import AppError, Unavailable
from tools.logger.custom_logger import custom_log, log_exception
from utils.clock import utc_now

if TYPE_CHECKING:
    from core.lease import Lease

# What one step reads: some milliseconds, in which this worker's requests wait.
_ROWS_A_STEP = 100
# What one tick does at the most, the steps and what runs in between: it is over long before the lease is.
_TICK_SECONDS = 0.2
VERIFICATION = "verification"


class Checker:
    """Call `tick` again and again in each worker; the holder of the lease verifies, the others do nothing.

    A round that is broken off, because its worker has ended or the ledger was imported meanwhile, begins anew.
    """

    def __init__(self, ledger: ProofRepository, lease: Lease, pause: float, epoch: Callable[[], Any]) -> None:
        """`pause`: seconds between two rounds. `epoch`: something that is not the same before and after an import; None during it."""
        self._ledger = ledger
        self._lease = lease
        self._pause = pause
        self._epoch = epoch
        self._round: tuple[Verification, Iterator[int], Any] | None = None
        self._next = float("-inf")

    def tick(self) -> None:
        """Go on with the round for a while; Unavailable as usual."""
        epoch = self._epoch() if self._lease.take() else None
        if epoch is None or (self._round is not None and self._round[2] != epoch):
            self._round = None
            return
        if self._round is None and time.monotonic() >= self._next:
            verification = Verification(self._ledger, _ROWS_A_STEP)
            self._round = verification, verification.steps(), epoch
        if self._round is not None:
            self._go_on(*self._round)
        metrics.note_run("ledger-checker")

    def stop(self) -> None:
        """Let another worker go on at once."""
        try:
            self._lease.release()
        except Unavailable:
            # It ends by itself.
            custom_log("the ledger checker's lease is left to expire", level="WARNING")

    def failed(self, error: Exception) -> None:
        """Note that a tick went wrong; the round begins anew."""
        self._round = None
        if isinstance(error, AppError):
            custom_log("the ledger checker has to wait", level="WARNING", code=error.code)
        else:
            log_exception("the ledger checker stumbled", error)

    def _go_on(self, verification: Verification, steps: Iterator[int], epoch: Any) -> None:
        until = time.monotonic() + _TICK_SECONDS
        report = verification.report
        while next(steps, None) is not None:
            # The requests of this worker come in between.
            time.sleep(0)
            if not report.ok:
                metrics.LEDGER_CHAIN_OK.set(0)
            if time.monotonic() >= until:
                return
        self._round = None
        self._next = time.monotonic() + self._pause
        # What was imported while we looked was not there, or not whole, for some of it.
        if self._epoch() == epoch:
            self._finish(report)

    def _finish(self, report: LedgerReport) -> None:
        before = self._ledger.state(VERIFICATION)
        found = [finding for finding in report.findings if before is None or _document(finding) not in before["problems"]]
        for finding in found:
            custom_log("the ledger was tampered with", level="ERROR", collection=finding.collection, row=finding.id, problem=finding.what)
        note = state_of(report)
        if found:
            first = report.findings[0]
            row = outbox_row(utc_now(), [Notice("chain.broken", first.id or first.collection, _document(first))])
            self._ledger.note(VERIFICATION, note, self._ledger.notify(row))
        else:
            self._ledger.note(VERIFICATION, note)
        _measure(report)


def _measure(report: LedgerReport) -> None:
    metrics.LEDGER_CHAIN_OK.set(report.ok)
    metrics.LEDGER_LAST_VERIFIED.set(report.started_at.timestamp())
    for asset, total in report.census.sums.items() if report.census is not None else ():
        metrics.LEDGER_IMBALANCE.labels(asset).set(total)


def state_of(report: LedgerReport) -> dict[str, Any]:
    """What is remembered of a round: its view, and from where on something may have come since."""
    totals = report.totals
    return {
        **report.view(),
        "newest": report.newest,
        "sealed_upto": report.sealed_upto,
        "totals": {
            "accounts": [
                {"asset": asset, "account": account, "total": total}
                for asset, accounts in totals.accounts.items()
                for account, total in accounts.items()
            ],
            "transactions": totals.transactions,
            "wallet_entries": totals.wallet_entries,
            "system_entries": totals.system_entries,
        },
    }


def _document(finding: Finding) -> dict[str, Any]:
    return {"collection": finding.collection, "id": finding.id, "what": finding.what}

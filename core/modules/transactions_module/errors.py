"""The refusals of the ledger, each with its code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.error_handling.errors import Conflict, Forbidden, InsufficientFunds, NotFound, PayloadTooLarge, Unprocessable


class LedgerInvariantError(Exception):
    """A rule of double entry would be broken: a fault of ours, and the whole commit is given up."""


def insufficient_funds(available: int, required: int) -> InsufficientFunds:
    return InsufficientFunds("The wallet does not hold enough.", available=available, required=required)


def wallet_not_found(role: str) -> NotFound:
    return NotFound(f"There is no such {role} wallet.")


def wallet_not_active(status: str) -> Forbidden:
    return Forbidden(f"The wallet is {status}.", code=f"wallet-{status}", title=f"Wallet {status}")


def same_wallet() -> Unprocessable:
    return Unprocessable.of_field("destination", "is the source wallet itself", code="same-wallet")


def asset_mismatch() -> Unprocessable:
    return Unprocessable.of_field("destination", "holds another asset", code="asset-mismatch")


def balance_too_large() -> Unprocessable:
    return Unprocessable.of_field("amount", "would make a balance larger than 2^53-1", code="amount-invalid")


def duplicate_reference(transaction_id: str) -> Conflict:
    return Conflict(
        "This reference was used before in this wallet.",
        code="duplicate-reference",
        title="Duplicate reference",
        transaction_id=transaction_id,
    )


def key_reused() -> Unprocessable:
    return Unprocessable(
        "This Idempotency-Key was sent before with another body.", code="idempotency-key-reused", title="Idempotency key reused"
    )


def too_many_lots(limit: int) -> Conflict:
    return Conflict(f"The wallet has {limit} grants that are not used up.", code="too-many-grants", title="Too many grants")


def too_many_holds(limit: int) -> Conflict:
    return Conflict(f"The wallet has {limit} open holds.", code="too-many-holds", title="Too many holds")


def expires_too_early() -> Unprocessable:
    return Unprocessable.of_field("expires_at", "must be in the future, and after effective_at")


def hold_not_found() -> NotFound:
    return NotFound("There is no such hold.")


def not_your_hold() -> Forbidden:
    return Forbidden("This hold was placed by someone else, who alone may capture, change or release it.", code="hold-not-yours")


def hold_expired() -> Conflict:
    return Conflict("The hold has expired.", code="hold-expired", title="Hold expired")


def hold_closed(status: str) -> Conflict:
    return Conflict(f"The hold is {status}.", code="hold-closed", title="Hold closed")


def capture_exceeds_hold(remaining: int) -> Unprocessable:
    return Unprocessable.of_field("amount", f"is more than the {remaining} that the hold has left", code="capture-exceeds-hold")


def adjust_below_captured(captured: int) -> Unprocessable:
    return Unprocessable.of_field("amount", f"must be more than the {captured} that were captured")


def transaction_not_found() -> NotFound:
    return NotFound("There is no such transaction.")


def already_reversed() -> Conflict:
    return Conflict("The transaction was reversed in full.", code="already-reversed", title="Already reversed")


def reversal_exceeds_original(left: int) -> Unprocessable:
    return Unprocessable.of_field("amount", f"is more than the {left} that are not reversed", code="reversal-exceeds-original")


def not_yours_to_reverse() -> Forbidden:
    return Forbidden("Only the receiver of a transfer, a service or an admin may reverse it.")


def not_reversible(kind: str) -> Conflict:
    return Conflict(f"A transaction of type {kind} cannot be reversed.", code="not-reversible", title="Not reversible")


def grant_not_found() -> NotFound:
    return NotFound("There is no such grant.")


def grant_ended() -> Conflict:
    return Conflict("Nothing is left of this grant.", code="grant-ended", title="Grant ended")


def batch_failed(index: int, problem: Mapping[str, Any]) -> Unprocessable:
    return Unprocessable(
        f"Item {index} was refused, so nothing was done: {problem.get('detail', '')}",
        code="batch-failed",
        title="Batch failed",
        failed_index=index,
        error=dict(problem),
    )


def may_not_grant() -> Forbidden:
    return Forbidden("Your role may not grant credits.")


def batch_too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"A batch has at most {limit} items.", code="batch-too-large", title="Batch too large")


def too_many_alerts(limit: int) -> Conflict:
    return Conflict(f"The wallet has {limit} alerts.", code="too-many-alerts", title="Too many alerts")


def alert_not_found() -> NotFound:
    return NotFound("There is no such alert.")

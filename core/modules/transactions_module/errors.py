"""The refusals of the ledger, each with its code."""

from __future__ import annotations

from tools.error_handling.errors import Conflict, Forbidden, InsufficientFunds, NotFound, Unprocessable


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

"""The driver's errors as ours: away, outcome unknown, or a fault of our own that stays what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo.errors import (
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    WTimeoutError,
)

from tools.error_handling.errors import OutcomeUnknown, Unavailable

_AWAY = (ConnectionFailure, ExecutionTimeout, NetworkTimeout, WTimeoutError)
_DUPLICATE_KEY = 11000


def translate(error: PyMongoError) -> Unavailable | None:
    """What a client is told about the driver's `error`; None when it is a fault of ours."""
    if error.has_error_label("UnknownTransactionCommitResult"):
        return OutcomeUnknown("It is not known whether this took effect; where you sent an Idempotency-Key, a retry with it tells.")
    if isinstance(error, _AWAY) or error.timeout or error.has_error_label("TransientTransactionError"):
        return Unavailable("The database does not answer.", retry_after=1)
    return None


def raise_write_errors(reply: Mapping[str, Any]) -> None:
    """What a write command reports for single rows does not make it fail: raises DuplicateKeyError or OperationFailure."""
    errors = reply.get("writeErrors")
    if errors:
        kind = DuplicateKeyError if errors[0]["code"] == _DUPLICATE_KEY else OperationFailure
        raise kind(errors[0].get("errmsg", ""), errors[0]["code"], errors[0])

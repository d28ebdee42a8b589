"""The refusals of export and import, each with its code."""

from __future__ import annotations

from tools.error_handling.errors import Conflict, Unprocessable


def not_empty() -> Conflict:
    return Conflict("Only an empty ledger takes an import.", code="ledger-not-empty", title="Ledger not empty")


def importing() -> Conflict:
    return Conflict("The ledger is being imported.", code="ledger-importing", title="Ledger importing")


def not_an_export(line: int, what: str) -> Unprocessable:
    return Unprocessable(f"Line {line}: {what}.", code="import-invalid", title="Import invalid")


def unsound(what: str) -> Unprocessable:
    return Unprocessable(f"The imported ledger is not sound: {what}.", code="import-invalid", title="Import invalid")

"""What comes in and goes out of the transaction routes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Discriminator, Field, Tag, model_validator

from core.modules.transactions_module.ledger import DEBIT, Entry, Lot, Transaction
from core.web.models import MAX_AMOUNT, Amount, Body, PageQuery, Query, Text
from utils.clock import rfc3339

Id = Annotated[Text, Field(min_length=1, max_length=64)]
ShortText = Annotated[Text, Field(min_length=1, max_length=140)]
Reference = Annotated[Text, Field(min_length=1, max_length=128)]


def _checked_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(metadata) > 50:
        raise ValueError("must have at most 50 members")
    for name, value in metadata.items():
        # MongoDB gives a meaning to $ and dots in names.
        if not 1 <= len(name) <= 40 or name.startswith("$") or "." in name or "\x00" in name:
            raise ValueError("names have 1 to 40 characters, without dots, and do not start with $")
        if not _is_plain(value):
            raise ValueError("values are text of up to 500 characters, integers of up to 2^53-1, booleans or null")
    return metadata


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= 500 and "\x00" not in value
    return value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) <= MAX_AMOUNT)


Metadata = Annotated[dict[str, Any], AfterValidator(_checked_metadata)]


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class GrantBody(Body):
    amount: Amount
    category: Literal["paid", "promotional"] = "paid"
    priority: int = Field(default=50, ge=0, le=100)
    reason: ShortText | None = None
    reference: Reference | None = None
    metadata: Metadata = Field(default_factory=dict)


class DebitBody(Body):
    amount: Amount
    reason: ShortText | None = None
    reference: Reference | None = None
    metadata: Metadata = Field(default_factory=dict)


class ByUsername(Body):
    username: Annotated[Text, Field(min_length=3, max_length=32)]


def _destination_tag(value: Any) -> str | None:
    if isinstance(value, (dict, ByUsername)):
        return "<by username>"
    return "<by id>" if isinstance(value, str) else None


Destination = Annotated[Annotated[Id, Tag("<by id>")] | Annotated[ByUsername, Tag("<by username>")], Discriminator(_destination_tag)]


class TransferBody(Body):
    """`destination`: a wallet id, or `{username}` for that user's default wallet."""

    source: Id = "me"
    destination: Destination
    amount: Amount
    memo: ShortText | None = None
    reference: Reference | None = None
    metadata: Metadata = Field(default_factory=dict)


class MoneyQuery(Query):
    """`dry_run=true`: decide and answer, keep nothing."""

    dry_run: bool = False


class BalanceQuery(Query):
    at: Moment | None = None


class HistoryQuery(PageQuery):
    """`from` and `to` bound the time (from included, to excluded)."""

    type: Literal["grant", "debit", "transfer", "capture", "reversal", "expiry"] | None = None
    from_: Moment | None = Field(default=None, alias="from")
    to: Moment | None = None
    reference: Reference | None = None
    counterparty: Id | None = None

    @model_validator(mode="after")
    def _in_order(self) -> HistoryQuery:
        if self.from_ is not None and self.to is not None and self.from_ >= self.to:
            raise ValueError("from must be before to")
        return self


def posted_view(transaction: Transaction, visible: set[str]) -> dict[str, Any]:
    """What a money verb answers: the transaction, or for a grant `{grant, transaction}`."""
    view = transaction_view(transaction, visible)
    if transaction.type == DEBIT:
        view["allocations"] = [{"grant_id": grant_id, "amount": amount} for grant_id, amount in transaction.allocations]
    if transaction.grant is None:
        return view
    grant = transaction.grant
    return {"grant": grant_view(grant, transaction.destination, transaction.amount, grant.remaining), "transaction": view}


def transaction_view(transaction: Transaction, visible: set[str]) -> dict[str, Any]:
    """A transaction as clients see it; running balances only of the wallets in `visible`."""
    return {
        "id": transaction.id,
        "type": transaction.type,
        "asset": transaction.asset,
        "amount": transaction.amount,
        "source": transaction.source,
        "destination": transaction.destination,
        "entries": [_entry_view(entry, entry.wallet_id in visible) for entry in transaction.entries],
        "reference": transaction.reference,
        "memo": transaction.memo,
        "metadata": transaction.metadata,
        "reverses": None,
        "reversed_amount": 0,
        "created_at": rfc3339(transaction.created_at),
    }


def _entry_view(entry: Entry, visible: bool) -> dict[str, Any]:
    view: dict[str, Any] = {"wallet_id": entry.wallet_id, "delta": entry.delta, "seq": entry.seq}
    if visible:
        view.update(balance_after=entry.balance_after, held_after=entry.held_after)
    return view


def grant_view(lot: Lot, wallet_id: str, amount: int, remaining: int) -> dict[str, Any]:
    """A grant as clients see it: `remaining` of `amount`; `active` until it is spent."""
    return {
        "id": lot.grant_id,
        "wallet_id": wallet_id,
        "amount": amount,
        "remaining": remaining,
        "category": lot.category,
        "priority": lot.priority,
        "effective_at": rfc3339(lot.effective_at),
        "expires_at": rfc3339(lot.expires_at) if lot.expires_at is not None else None,
        "status": "active" if remaining else "spent",
    }


def history_view(entry: dict[str, Any]) -> dict[str, Any]:
    """A stored entry as a row of a wallet's history."""
    created_at: datetime = entry["created_at"]
    fields = ("transaction_id", "type", "delta", "seq", "balance_after", "held_after", "counterparty", "reference", "memo")
    return {**{name: entry[name] for name in fields}, "created_at": rfc3339(created_at)}

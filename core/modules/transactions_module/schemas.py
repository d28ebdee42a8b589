"""What comes in and goes out of the transaction routes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Discriminator, Field, Tag, model_validator

from core.modules.transactions_module.ledger import CAPTURE, DEBIT, EXPIRED, OPEN, Entry, Grant, Hold, Transaction
from core.modules.transactions_module.operations import Result
from core.web.answers import SOMETIMES, Asset, Credits, Refusal, Time, View, WalletId
from core.web.models import MAX_AMOUNT, Amount, Body, Metadata, PageQuery, Query, Text
from utils.clock import rfc3339

Id = Annotated[Text, Field(min_length=1, max_length=64)]
ShortText = Annotated[Text, Field(min_length=1, max_length=140)]
Reference = Annotated[Text, Field(min_length=1, max_length=128)]


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


HoldSeconds = Annotated[int, Field(ge=1, le=7 * 24 * 3600)]


class GrantBody(Body):
    """`effective_at` None: at once; `expires_at` None: never."""

    amount: Amount
    category: Literal["paid", "promotional"] = "paid"
    priority: int = Field(default=50, ge=0, le=100)
    effective_at: Moment | None = None
    expires_at: Moment | None = None
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


class HoldBody(Body):
    """`expires_in`: seconds."""

    amount: Amount
    expires_in: HoldSeconds = 900
    reason: ShortText | None = None


class CaptureBody(Body):
    """`amount` None: all that is left. `final`: the rest is released. `destination` None: revenue."""

    amount: Amount | None = None
    final: bool = False
    destination: Id | None = None


class AdjustBody(Body):
    """`amount`: what the hold reserves in all; `expires_in`: seconds from now."""

    amount: Amount | None = Field(default=None, examples=[750])
    expires_in: HoldSeconds | None = Field(default=None, examples=[3600])

    @model_validator(mode="after")
    def _says_something(self) -> AdjustBody:
        if self.amount is None and self.expires_in is None:
            raise ValueError("give amount, expires_in, or both")
        return self


class ReversalBody(Body):
    """`amount` None: all that is not reversed yet."""

    amount: Amount | None = None
    reason: ShortText | None = None


class NoBody(Body):
    """The body of a verb that says everything by its path."""


class _Item(Body):
    """What every item of a batch has besides its verb's own fields."""

    client_ref: Reference | None = None


class GrantItem(GrantBody, _Item):
    op: Literal["grant"]
    wallet_id: Id


class DebitItem(DebitBody, _Item):
    op: Literal["debit"]
    wallet_id: Id


class TransferItem(TransferBody, _Item):
    op: Literal["transfer"]


class HoldItem(HoldBody, _Item):
    op: Literal["hold"]
    wallet_id: Id


class CaptureItem(CaptureBody, _Item):
    op: Literal["capture"]
    hold_id: Id


class ReleaseItem(_Item):
    op: Literal["release"]
    hold_id: Id


class AdjustItem(AdjustBody, _Item):
    op: Literal["adjust"]
    hold_id: Id


class ReversalItem(ReversalBody, _Item):
    op: Literal["reversal"]
    transaction_id: Id


def _item_tag(value: Any) -> str | None:
    op = value.get("op") if isinstance(value, dict) else getattr(value, "op", None)
    return f"<{op}>"


Item = Annotated[
    Annotated[GrantItem, Tag("<grant>")]
    | Annotated[DebitItem, Tag("<debit>")]
    | Annotated[TransferItem, Tag("<transfer>")]
    | Annotated[HoldItem, Tag("<hold>")]
    | Annotated[CaptureItem, Tag("<capture>")]
    | Annotated[ReleaseItem, Tag("<release>")]
    | Annotated[AdjustItem, Tag("<adjust>")]
    | Annotated[ReversalItem, Tag("<reversal>")],
    Discriminator(_item_tag, custom_error_type="unknown_op", custom_error_message="op is none of the verbs of a batch"),
]


class BatchBody(Body):
    """`atomic`: all items or none; else each by itself."""

    atomic: bool
    items: list[Item] = Field(min_length=1)


class HoldsQuery(PageQuery):
    """Holds in one status only."""

    status: Literal["open", "captured", "released", "expired"] | None = None


class MoneyQuery(Query):
    """`dry_run=true`: decide and answer, keep nothing."""

    dry_run: bool = False


Level = Annotated[int, Field(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]


class AlertBody(Body):
    """`on`: which of the wallet's levels is watched. `rearm_margin`: how far it has to come back before the alert may fire again."""

    threshold: Level
    direction: Literal["below", "above"]
    on: Literal["settled", "available"] = "available"
    rearm_margin: int = Field(default=0, ge=0, le=MAX_AMOUNT)


class BalanceQuery(Query):
    at: Moment | None = None


class HistoryQuery(PageQuery):
    """`from` and `to` bound the time (from included, to excluded). `format`: a page, or all rows as a statement."""

    format: Literal["json", "ndjson", "csv"] = "json"
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


TransactionType = Literal["grant", "debit", "transfer", "capture", "reversal", "expiry"]
TransactionId = Annotated[str, Field(examples=["tx_019aa5f07c3e5b1d9e4f2a68"])]
GrantId = Annotated[str, Field(examples=["g_019aa5f07c3e5b1d9e4f2a68"])]
HoldId = Annotated[str, Field(examples=["h_019aa5f07c3e5b1d9e4f2a68"])]
# A wallet, or an account of the system such as system:revenue.
Account = WalletId


class EntryView(View):
    """What a transaction did to one account, as its `seq`th entry; the running balances only of wallets that the caller may see."""

    wallet_id: Account
    delta: Credits
    # Accounts of the system have none.
    seq: int | None
    balance_after: int = SOMETIMES
    held_after: int = SOMETIMES


class AllocationView(View):
    """A grant that paid, and how much of it."""

    grant_id: GrantId
    amount: Credits


class TransactionView(View):
    """A transaction; `allocations` where it was paid out of grants, for whom the wallet is."""

    id: TransactionId
    type: TransactionType
    asset: Asset
    amount: Credits
    source: Account
    destination: Account
    entries: list[EntryView]
    reference: str | None
    memo: str | None
    metadata: Metadata
    reverses: TransactionId | None
    reversed_amount: int
    created_at: Time
    allocations: list[AllocationView] = SOMETIMES


class AlertView(View):
    """`status`: `fired` from the crossing on, until the level has come back by `rearm_margin`."""

    id: str
    on: Literal["settled", "available"]
    direction: Literal["below", "above"]
    threshold: int
    rearm_margin: int
    status: Literal["armed", "fired"]
    fired_at: Time | None
    created_at: Time


class GrantView(View):
    """`remaining` of `amount` is left."""

    id: GrantId
    wallet_id: WalletId
    amount: Credits
    remaining: int
    category: Literal["paid", "promotional"]
    priority: int
    effective_at: Time
    expires_at: Time | None
    status: Literal["pending", "active", "spent", "expired", "voided"]


class HoldView(View):
    """`amount` was reserved in all, of which `captured` is paid and `remaining` still reserved."""

    id: HoldId
    wallet_id: WalletId
    amount: Credits
    captured: int
    remaining: int
    status: Literal["open", "captured", "released", "expired"]
    reason: str | None
    expires_at: Time
    created_at: Time


class GrantedView(View):
    """`transaction` null: nothing was posted, since the grant has not taken effect yet."""

    grant: GrantView
    transaction: TransactionView | None


class CapturedView(View):
    hold: HoldView
    transaction: TransactionView


class ItemView(View):
    """What became of one item of a batch: `status` is what it would be answered with by itself, `error` why it was refused."""

    index: int
    client_ref: str | None
    status: int
    transaction: TransactionView = SOMETIMES
    hold: HoldView = SOMETIMES
    grant: GrantView = SOMETIMES
    error: Refusal = SOMETIMES


class BatchView(View):
    results: list[ItemView]


class BalanceView(View):
    """As it was at `as_of`."""

    wallet_id: WalletId
    asset: Asset
    settled: int
    held: int
    available: int
    as_of: Time


class HistoryRow(View):
    """An entry of a wallet, with its running balances."""

    transaction_id: TransactionId
    type: TransactionType
    delta: Credits
    seq: int
    balance_after: int
    held_after: int
    counterparty: Account
    reference: str | None
    memo: str | None
    created_at: Time


def single_view(result: Result, visible: set[str], now: datetime) -> dict[str, Any]:
    """What one verb answers: a transaction or a hold as it is, or what there is of both and of a grant by name."""
    views = result_view(result, visible, now)
    if not views:
        return {}
    if len(views) == 1 and result.grant is None:
        return next(iter(views.values()))
    return {"grant": views["grant"], "transaction": views.get("transaction")} if result.grant is not None else views


def result_view(result: Result, visible: set[str], now: datetime) -> dict[str, Any]:
    """`{transaction?, hold?, grant?}` of what an operation did; running balances only of the wallets in `visible`."""
    views: dict[str, Any] = {}
    if result.hold is not None:
        views["hold"] = hold_view(result.hold, now)
    if result.grant is not None:
        views["grant"] = grant_view(result.grant, result.remaining, now)
    if result.transaction is not None:
        views["transaction"] = transaction_view(result.transaction, visible, paid=True)
    return views


def transaction_view(transaction: Transaction, visible: set[str], reversed_amount: int = 0, *, paid: bool = False) -> dict[str, Any]:
    """A transaction as clients see it; running balances only of the wallets in `visible`. `paid`: with the grants that paid."""
    view = {
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
        "reverses": transaction.reverses,
        "reversed_amount": reversed_amount,
        "created_at": rfc3339(transaction.created_at),
    }
    if paid and transaction.type in (DEBIT, CAPTURE):
        view["allocations"] = [{"grant_id": grant_id, "amount": amount} for grant_id, amount in transaction.allocations]
    return view


def _entry_view(entry: Entry, visible: bool) -> dict[str, Any]:
    view: dict[str, Any] = {"wallet_id": entry.wallet_id, "delta": entry.delta, "seq": entry.seq}
    if visible:
        view.update(balance_after=entry.balance_after, held_after=entry.held_after)
    return view


def grant_view(grant: Grant, remaining: int, now: datetime) -> dict[str, Any]:
    """A grant as clients see it: `remaining` of `amount`; pending, active, spent, expired or voided."""
    lot = grant.lot
    return {
        "id": lot.grant_id,
        "wallet_id": grant.wallet_id,
        "amount": grant.amount,
        "remaining": remaining,
        "category": lot.category,
        "priority": lot.priority,
        "effective_at": rfc3339(lot.effective_at),
        "expires_at": rfc3339(lot.expires_at) if lot.expires_at is not None else None,
        "status": _grant_status(grant, remaining, now),
    }


def _grant_status(grant: Grant, remaining: int, now: datetime) -> str:
    if remaining:
        return "pending" if grant.lot.effective_at > now else "active"
    return grant.ended or "spent"


def hold_view(hold: Hold, now: datetime) -> dict[str, Any]:
    """A hold as clients see it; one whose time is over has expired, whether or not that was written down yet."""
    status = EXPIRED if hold.status == OPEN and hold.expires_at <= now else hold.status
    return {
        "id": hold.id,
        "wallet_id": hold.wallet_id,
        "amount": hold.amount,
        "captured": hold.captured,
        "remaining": hold.remaining if status == OPEN else 0,
        "status": status,
        "reason": hold.reason,
        "expires_at": rfc3339(hold.expires_at),
        "created_at": rfc3339(hold.created_at),
    }


def history_view(entry: dict[str, Any]) -> dict[str, Any]:
    """A stored entry as a row of a wallet's history."""
    created_at: datetime = entry["created_at"]
    fields = ("transaction_id", "type", "delta", "seq", "balance_after", "held_after", "counterparty", "reference", "memo")
    return {**{name: entry[name] for name in fields}, "created_at": rfc3339(created_at)}


def alert_view(alert: Mapping[str, Any]) -> dict[str, Any]:
    """A wallet's stored alert; `status` is `armed`, or `fired` until the level has come back."""
    fired_at: datetime | None = alert["fired_at"]
    return {
        "id": alert["alert_id"],
        "on": alert["on"],
        "direction": alert["direction"],
        "threshold": alert["threshold"],
        "rearm_margin": alert["rearm_margin"],
        "status": "armed" if alert["armed"] else "fired",
        "fired_at": rfc3339(fired_at) if fired_at is not None else None,
        "created_at": rfc3339(alert["created_at"]),
    }

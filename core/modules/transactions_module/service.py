"""The money verbs and the reads of the ledger, as the routes need them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from core.modules.transactions_module import errors
from core.modules.transactions_module.commands import Batch, Claim, Command, Verdict
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.ledger import (
    DEBIT,
    EXPIRED,
    GRANT,
    ISSUANCE,
    OPEN,
    REVENUE,
    TRANSFER,
    Draft,
    Grant,
    GrantTerms,
    is_system,
    state_at,
)
from core.modules.transactions_module.operations import (
    Actor,
    Adjust,
    Capture,
    Operation,
    PlaceHold,
    Post,
    Release,
    Reverse,
    VoidGrant,
)
from core.modules.transactions_module.repository import LedgerRepository, to_wallet
from core.modules.transactions_module.schemas import (
    AdjustItem,
    BatchBody,
    ByUsername,
    CaptureBody,
    CaptureItem,
    DebitBody,
    DebitItem,
    GrantBody,
    GrantItem,
    HistoryQuery,
    HoldBody,
    HoldItem,
    HoldsQuery,
    Item,
    ReleaseItem,
    ReversalItem,
    TransferBody,
    TransferItem,
    grant_view,
    history_view,
    hold_view,
    transaction_view,
)
from core.modules.wallet_module.service import WalletService, wallet_id_of
from core.web.models import PageQuery
from core.web.paging import Pager
from core.web.routing import ADMIN, SERVICE, USER, Call, Principal
from tools.error_handling.errors import Unprocessable
from utils.clock import rfc3339, utc_now

_PRIVILEGED = (SERVICE, ADMIN)
_SEES_ALL = (ADMIN,)
MAX_ITEMS = 1000


class TransactionService:
    """Builds commands for the engine and reads what it has written."""

    def __init__(
        self,
        engine: PostingEngine,
        repository: LedgerRepository,
        wallets: WalletService,
        find_users: Callable[[Sequence[str]], Mapping[str, str]],
        pager: Pager,
    ) -> None:
        self._engine = engine
        self._repository = repository
        self._wallets = wallets
        self._find_users = find_users
        self._pager = pager

    # Money verbs

    def grant(self, call: Call) -> Verdict:
        """Issue credits to a wallet."""
        return self._submit(call, self._granting(call.caller, call.params["id"], call.body))

    def void_grant(self, call: Call) -> Verdict:
        """Take back what is left of a grant."""
        wallet_id = self._named(call.caller, call.params["id"], "source")
        return self._submit(call, VoidGrant(wallet_id, call.params["gid"]))

    def debit(self, call: Call) -> Verdict:
        """Spend credits of a wallet."""
        return self._submit(call, self._debiting(call.caller, call.params["id"], call.body))

    def transfer(self, call: Call) -> Verdict:
        """Move credits from one wallet to another."""
        return self._submit(call, self._transferring(call.caller, call.body, self._find_users(_usernames([call.body]))))

    def hold(self, call: Call) -> Verdict:
        """Reserve credits of a wallet."""
        return self._submit(call, self._holding(call.caller, call.params["id"], call.body))

    def capture(self, call: Call) -> Verdict:
        """Pay out of a hold."""
        return self._submit(call, self._capturing(call.caller, call.params["id"], call.body))

    def release(self, call: Call) -> Verdict:
        """Give back what a hold reserves."""
        return self._submit(call, Release(call.params["id"]))

    def adjust(self, call: Call) -> Verdict:
        """Change a hold's amount or its end."""
        return self._submit(call, Adjust(call.params["id"], call.body.amount, call.body.expires_in))

    def reverse(self, call: Call) -> Verdict:
        """Take a transaction back, or a part of it."""
        return self._submit(call, Reverse(call.params["id"], call.body.amount, call.body.reason))

    def batch(self, call: Call) -> Verdict:
        """Several verbs in one request."""
        body: BatchBody = call.body
        if len(body.items) > MAX_ITEMS:
            raise errors.batch_too_large(MAX_ITEMS)
        users = self._find_users(_usernames(item for item in body.items if isinstance(item, TransferItem)))
        operations = tuple(self._of_item(call.caller, item, users) for item in body.items)
        return self._submit(call, *operations, batch=Batch(body.atomic, tuple(item.client_ref for item in body.items)))

    # What a request means

    def _of_item(self, principal: Principal, item: Item, users: Mapping[str, str]) -> Operation:
        operation: Operation
        match item:
            case GrantItem():
                operation = self._granting(principal, item.wallet_id, item)
            case DebitItem():
                operation = self._debiting(principal, item.wallet_id, item)
            case TransferItem():
                operation = self._transferring(principal, item, users)
            case HoldItem():
                operation = self._holding(principal, item.wallet_id, item)
            case CaptureItem():
                operation = self._capturing(principal, item.hold_id, item)
            case ReleaseItem():
                operation = Release(item.hold_id)
            case AdjustItem():
                operation = Adjust(item.hold_id, item.amount, item.expires_in)
            case ReversalItem():
                operation = Reverse(item.transaction_id, item.amount, item.reason)
        return operation

    def _granting(self, principal: Principal, wallet_id: str, body: GrantBody) -> Operation:
        terms = GrantTerms(body.category, body.priority, body.effective_at, body.expires_at)
        to = self._named(principal, wallet_id, "destination")
        return Post(Draft(GRANT, body.amount, ISSUANCE, to, body.reference, body.reason, body.metadata, terms))

    def _debiting(self, principal: Principal, wallet_id: str, body: DebitBody) -> Operation:
        source = self._named(principal, wallet_id, "source")
        return Post(Draft(DEBIT, body.amount, source, REVENUE, body.reference, body.reason, body.metadata))

    def _transferring(self, principal: Principal, body: TransferBody, users: Mapping[str, str]) -> Operation:
        source = self._named(principal, body.source, "source")
        if isinstance(body.destination, str):
            destination = self._named(principal, body.destination, "destination")
        else:
            # A name that nobody has (any more) becomes a wallet that cannot exist: refused by the engine, after it has
            # looked whether this request was answered before.
            destination = wallet_id_of(users.get(body.destination.username, ""))
        return Post(Draft(TRANSFER, body.amount, source, destination, body.reference, body.memo, body.metadata))

    def _holding(self, principal: Principal, wallet_id: str, body: HoldBody) -> Operation:
        return PlaceHold(self._named(principal, wallet_id, "source"), body.amount, body.expires_in, body.reason)

    def _capturing(self, principal: Principal, hold_id: str, body: CaptureBody) -> Operation:
        destination = REVENUE if body.destination is None else self._named(principal, body.destination, "destination")
        return Capture(hold_id, body.amount, body.final, destination)

    def _named(self, principal: Principal, wallet_id: str, role: str) -> str:
        """The wallet that a client names. The system's accounts are none: only the verbs that use them reach those."""
        if is_system(wallet_id):
            raise errors.wallet_not_found(role)
        return self._wallets.resolve(principal, wallet_id)

    def _submit(self, call: Call, *operations: Operation, batch: Batch | None = None) -> Verdict:
        principal = call.caller
        actor = Actor(principal.user_id, principal.role in _PRIVILEGED, principal.role in _SEES_ALL)
        claim = None
        if not call.query.dry_run:
            # Of what the client sent, not of what we made of it: a retry must match even if a name resolves anew.
            request = {"params": dict(call.params), "body": call.body.model_dump(mode="json", exclude_unset=True)}
            claim = Claim.of(principal.user_id, call.route, call.idempotency_key, request)
        return self._engine.submit(Command(operations, actor, claim, call.request_id, batch, dry_run=claim is None))

    # Reads

    def balance(self, principal: Principal, wallet_id: str, at: datetime | None) -> dict[str, Any]:
        """The balance now, or as it was at a time in the past."""
        now = utc_now()
        wallet = self._wallets.get(principal, wallet_id)
        state = {"settled": wallet["settled"], "held": wallet["held"]}
        if at is not None:
            if at > now:
                raise Unprocessable.of_field("at", "must not be in the future")
            state = {"settled": self._settled_at(wallet["_id"], at), "held": self._repository.held_at(wallet["_id"], at)}
        # The limit as it is now: only what was posted or held has a history.
        available = state["settled"] + wallet["credit_limit"] - state["held"]
        return {"wallet_id": wallet["_id"], "asset": wallet["asset"], **state, "available": available, "as_of": rfc3339(at or now)}

    def _settled_at(self, wallet_id: str, at: datetime) -> int:
        stored = self._wallets.stored(wallet_id)
        if at >= stored["posted_at"]:
            # After the last entry only the clock can have done something.
            return state_at(to_wallet(stored), at).settled
        entry = self._last_entry(wallet_id, stored["seq"], at)
        return entry["balance_after"] if entry is not None else 0

    def _last_entry(self, wallet_id: str, last_seq: int, at: datetime) -> dict[str, Any] | None:
        """The last entry that is not younger than `at`: binary search, as a wallet's times never go back."""
        low, high, found = 1, last_seq, None
        while low <= high:
            middle = (low + high) // 2
            entry = self._repository.entry_at(wallet_id, middle)
            assert entry is not None, "a wallet's entries are numbered without gaps"
            if entry["created_at"] <= at:
                low, found = middle + 1, entry
            else:
                high = middle - 1
        return found

    def history(self, principal: Principal, wallet_id: str, query: HistoryQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: a wallet's entries, newest first."""
        wallet = self._wallets.get(principal, wallet_id)
        shown = query.model_dump(mode="json", exclude={"cursor", "limit", "format"})
        binding = f"history:{principal.user_id}:{wallet['_id']}:{json.dumps(shown, sort_keys=True)}"
        before = self._pager.position(query.cursor, binding)
        found = self._repository.history(wallet["_id"], _history_filters(query), before, query.limit + 1)
        return self._pager.page([history_view(entry) for entry in found], query.limit, binding, "seq")

    def statement(self, principal: Principal, wallet_id: str, query: HistoryQuery) -> Iterator[dict[str, Any]]:
        """All of a wallet's entries that fit `query`, oldest first, read page by page while they are taken."""
        wallet = self._wallets.get(principal, wallet_id)
        rows = self._repository.statement(wallet["_id"], _history_filters(query), wallet["seq"])
        return (history_view(entry) for entry in rows)

    def grants(self, principal: Principal, wallet_id: str, query: PageQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: a wallet's grants, newest first, with what is left of each."""
        wallet = self._wallets.get(principal, wallet_id)
        left = {lot["grant_id"]: lot["remaining"] for lot in wallet["lots"]}
        binding = f"grants:{principal.user_id}:{wallet['_id']}"
        found = self._repository.grants(wallet["_id"], self._pager.position(query.cursor, binding), query.limit + 1)
        now = utc_now()
        views = [grant_view(_ended(grant, now), left.get(grant.lot.grant_id, 0), now) for grant in found]
        return self._pager.page(views, query.limit, binding)

    def find_hold(self, principal: Principal, hold_id: str) -> dict[str, Any]:
        """A hold in the caller's wallet; the privileged and those who see everything find every one."""
        hold = self._repository.find_hold(hold_id)
        if hold is None or (principal.role == USER and hold.owner_id != principal.user_id):
            raise errors.hold_not_found()
        return hold_view(hold, utc_now())

    def holds(self, principal: Principal, query: HoldsQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: the holds in the caller's wallets, newest first."""
        now = utc_now()
        filters = {"owner_id": principal.user_id, **_hold_status(query.status, now)}
        binding = f"holds:{principal.user_id}:{query.status}"
        found = self._repository.holds(filters, self._pager.position(query.cursor, binding), query.limit + 1)
        return self._pager.page([hold_view(hold, now) for hold in found], query.limit, binding)

    def transaction(self, principal: Principal, transaction_id: str) -> dict[str, Any]:
        """A transaction that the caller took part in, or may see anyway."""
        transaction = self._repository.find_transaction(transaction_id)
        if transaction is None:
            raise errors.transaction_not_found()
        parties = list(transaction.wallet_ids)
        visible = set(parties) if principal.role in _SEES_ALL else self._wallets.owned(parties, principal.user_id)
        if not visible and principal.role == USER:
            raise errors.transaction_not_found()
        reversed_amount = self._repository.reversed_amounts([transaction_id]).get(transaction_id, 0)
        return transaction_view(transaction, visible, reversed_amount, paid=transaction.source in visible)


def _usernames(bodies: Iterable[TransferBody]) -> list[str]:
    return [body.destination.username for body in bodies if isinstance(body.destination, ByUsername)]


def _hold_status(status: str | None, now: datetime) -> dict[str, Any]:
    """The filter for a status; whether an open hold has expired is told by the clock."""
    match status:
        case None:
            return {}
        case "open":
            return {"status": OPEN, "expires_at": {"$gt": now}}
        case "expired":
            return {"status": {"$in": [OPEN, EXPIRED]}, "expires_at": {"$lte": now}}
        case _:
            return {"status": status}


def _ended(grant: Grant, now: datetime) -> Grant:
    """One that ran out by the clock has expired, whether or not that was written down yet."""
    expires_at = grant.lot.expires_at
    has_run_out = grant.ended is None and expires_at is not None and expires_at <= now
    return replace(grant, ended=EXPIRED) if has_run_out else grant


def _history_filters(query: HistoryQuery) -> dict[str, Any]:
    filters: dict[str, Any] = {name: value for name in ("type", "reference", "counterparty") if (value := getattr(query, name)) is not None}
    bounds = {operator: value for operator, value in (("$gte", query.from_), ("$lt", query.to)) if value is not None}
    return {**filters, **({"created_at": bounds} if bounds else {})}

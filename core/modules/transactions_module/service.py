"""The money verbs and the reads of the ledger, as the routes need them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from core.modules.transactions_module import errors
from core.modules.transactions_module.commands import Actor, Claim, Command, Verdict
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.ledger import DEBIT, GRANT, ISSUANCE, REVENUE, TRANSFER, Draft, GrantTerms, is_system
from core.modules.transactions_module.repository import LedgerRepository, to_lot
from core.modules.transactions_module.schemas import (
    DebitBody,
    GrantBody,
    HistoryQuery,
    TransferBody,
    grant_view,
    history_view,
    transaction_view,
)
from core.modules.wallet_module.service import WalletService, wallet_id_of
from core.web.models import PageQuery
from core.web.paging import Pager
from core.web.routing import ADMIN, SERVICE, USER, Call, Principal
from tools.error_handling.errors import NotFound, Unprocessable
from utils.clock import rfc3339, utc_now

_PRIVILEGED = (SERVICE, ADMIN)
_SEES_ALL = (ADMIN,)


class TransactionService:
    """Builds commands for the engine and reads what it has written."""

    def __init__(
        self,
        engine: PostingEngine,
        repository: LedgerRepository,
        wallets: WalletService,
        find_user: Callable[[str], str | None],
        pager: Pager,
    ) -> None:
        self._engine = engine
        self._repository = repository
        self._wallets = wallets
        self._find_user = find_user
        self._pager = pager

    # Money verbs

    def grant(self, call: Call) -> Verdict:
        """Issue credits to a wallet."""
        body: GrantBody = call.body
        wallet_id = self._named(call.caller, call.params["id"], "destination")
        terms = GrantTerms(body.category, body.priority)
        draft = Draft(GRANT, body.amount, ISSUANCE, wallet_id, body.reference, body.reason, body.metadata, terms)
        return self._submit(call, draft)

    def debit(self, call: Call) -> Verdict:
        """Spend credits of a wallet."""
        body: DebitBody = call.body
        wallet_id = self._named(call.caller, call.params["id"], "source")
        return self._submit(call, Draft(DEBIT, body.amount, wallet_id, REVENUE, body.reference, body.reason, body.metadata))

    def transfer(self, call: Call) -> Verdict:
        """Move credits from one wallet to another."""
        body: TransferBody = call.body
        source = self._named(call.caller, body.source, "source")
        destination = self._destination(call.caller, body)
        return self._submit(call, Draft(TRANSFER, body.amount, source, destination, body.reference, body.memo, body.metadata))

    def _destination(self, principal: Principal, body: TransferBody) -> str:
        if isinstance(body.destination, str):
            return self._named(principal, body.destination, "destination")
        # A name that nobody has (any more) becomes a wallet that cannot exist: refused by the engine, after it has
        # looked whether this request was answered before.
        return wallet_id_of(self._find_user(body.destination.username) or "")

    def _named(self, principal: Principal, wallet_id: str, role: str) -> str:
        """The wallet that a client names. The system's accounts are none: only the verbs that use them reach those."""
        if is_system(wallet_id):
            raise errors.wallet_not_found(role)
        return self._wallets.resolve(principal, wallet_id)

    def _submit(self, call: Call, draft: Draft) -> Verdict:
        principal = call.caller
        actor = Actor(principal.user_id, principal.role in _PRIVILEGED, principal.role in _SEES_ALL)
        claim = None
        if not call.query.dry_run:
            # Of what the client sent, not of what we made of it: a retry must match even if a name resolves anew.
            request = {"params": dict(call.params), "body": call.body.model_dump(mode="json", exclude_unset=True)}
            claim = Claim.of(principal.user_id, call.route, call.idempotency_key, request)
        return self._engine.submit(Command(draft, actor, claim, call.request_id))

    # Reads

    def balance(self, principal: Principal, wallet_id: str, at: datetime | None) -> dict[str, Any]:
        """The balance now, or as it was at a time in the past."""
        wallet = self._wallets.get(principal, wallet_id)
        state = {"settled": wallet["settled"], "held": wallet["held"]}
        if at is not None:
            if at > utc_now():
                raise Unprocessable.of_field("at", "must not be in the future")
            entry = self._last_entry(wallet["_id"], wallet["seq"], at)
            state = {"settled": entry["balance_after"], "held": entry["held_after"]} if entry else {"settled": 0, "held": 0}
        # The limit as it is now: only what was posted has a history.
        available = state["settled"] + wallet["credit_limit"] - state["held"]
        as_of = rfc3339(at or utc_now())
        return {"wallet_id": wallet["_id"], "asset": wallet["asset"], **state, "available": available, "as_of": as_of}

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
        shown = query.model_dump(mode="json", exclude={"cursor", "limit"})
        binding = f"history:{principal.user_id}:{wallet['_id']}:{json.dumps(shown, sort_keys=True)}"
        before = self._pager.position(query.cursor, binding)
        found = self._repository.history(wallet["_id"], _history_filters(query), before, query.limit + 1)
        return self._pager.page([history_view(entry) for entry in found], query.limit, binding, "seq")

    def grants(self, principal: Principal, wallet_id: str, query: PageQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: a wallet's grants, newest first, with what is left of each."""
        wallet = self._wallets.get(principal, wallet_id)
        left = {lot["grant_id"]: lot["remaining"] for lot in wallet["lots"]}
        binding = f"grants:{principal.user_id}:{wallet['_id']}"
        found = self._repository.grants(wallet["_id"], self._pager.position(query.cursor, binding), query.limit + 1)
        views = [grant_view(to_lot(row), row["wallet_id"], row["amount"], left.get(row["_id"], 0)) for row in found]
        return self._pager.page(views, query.limit, binding)

    def transaction(self, principal: Principal, transaction_id: str) -> dict[str, Any]:
        """A transaction that the caller took part in, or may see anyway."""
        transaction = self._repository.find_transaction(transaction_id)
        if transaction is None:
            raise NotFound("There is no such transaction.")
        parties = [entry.wallet_id for entry in transaction.entries if entry.seq is not None]
        visible = set(parties) if principal.role in _SEES_ALL else self._wallets.owned(parties, principal.user_id)
        if not visible and principal.role == USER:
            raise NotFound("There is no such transaction.")
        return transaction_view(transaction, visible)


def _history_filters(query: HistoryQuery) -> dict[str, Any]:
    filters: dict[str, Any] = {name: value for name in ("type", "reference", "counterparty") if (value := getattr(query, name)) is not None}
    bounds = {operator: value for operator, value in (("$gte", query.from_), ("$lt", query.to)) if value is not None}
    return {**filters, **({"created_at": bounds} if bounds else {})}

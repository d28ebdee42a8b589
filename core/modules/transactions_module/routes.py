"""The routes of the money verbs and of what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from core import metrics
from core.modules.transactions_module.alert_service import AlertService
from core.modules.transactions_module.commands import Verdict
from core.modules.transactions_module.schemas import (
    AdjustBody,
    AlertBody,
    AlertView,
    BalanceQuery,
    BalanceView,
    BatchBody,
    BatchView,
    CaptureBody,
    CapturedView,
    DebitBody,
    GrantBody,
    GrantedView,
    GrantView,
    HistoryQuery,
    HistoryRow,
    HoldBody,
    HoldsQuery,
    HoldView,
    MoneyQuery,
    NoBody,
    ReversalBody,
    TransactionView,
    TransferBody,
)
from core.modules.transactions_module.service import TransactionService
from core.modules.transactions_module.statements import CSV, NDJSON, as_csv, as_ndjson
from core.web.answers import NOTHING, Answers, Page, View
from core.web.models import Body, PageQuery, Query
from core.web.routing import EVERYONE, ISSUERS, WRITERS, Answer, Call, Route
from tools.error_handling.errors import StoredProblem

_READ, _WRITE, _MONEY = "wallets:read", "wallets:write", "money"
_FROZEN = ("403 wallet-frozen", "403 wallet-closed")
# How a wallet that something is taken from, and one that it goes to, can refuse.
_TAKING = ("402 insufficient-funds", *_FROZEN, "404 not-found")
_GIVING = (*_FROZEN, "404 not-found", "409 too-many-grants", "422 amount-invalid")
_MOVING = (*_TAKING, *_GIVING, "422 same-wallet", "422 asset-mismatch")
_REFERENCE = ("409 duplicate-reference",)
_OF_HOLD = (*_FROZEN, "403 hold-not-yours", "409 hold-expired", "409 hold-closed")
REPLAYED = {"Idempotency-Replayed": "true"}


def transaction_routes(service: TransactionService) -> tuple[Route, ...]:
    """The module's routes, with handlers that call `service`."""

    def money(verb: Callable[[Call], Verdict]) -> Callable[[Call], Answer]:
        return lambda call: verdict_answer(verb(call))

    def balance(call: Call) -> Answer:
        return Answer(service.balance(call.caller, call.params["id"], call.query.at))

    def history(call: Call) -> Answer:
        if call.query.format == "json":
            return Answer(service.history(call.caller, call.params["id"], call.query))
        rows = service.statement(call.caller, call.params["id"], call.query)
        lines, content_type = (as_csv(rows), CSV) if call.query.format == "csv" else (as_ndjson(rows), NDJSON)
        return Answer(content=lines, content_type=content_type)

    def grants(call: Call) -> Answer:
        return Answer(service.grants(call.caller, call.params["id"], call.query))

    def holds(call: Call) -> Answer:
        return Answer(service.holds(call.caller, call.query))

    def hold(call: Call) -> Answer:
        return Answer(service.find_hold(call.caller, call.params["id"]))

    def transaction(call: Call) -> Answer:
        return Answer(service.transaction(call.caller, call.params["id"]))

    def read(path: str, handler: Callable[[Call], Answer], summary: str, answers: Answers, query: type[Query] | None = None) -> Route:
        return Route("GET", path, handler, EVERYONE, summary, query=query, scope=_READ, answers=answers)

    def verb(path: str, handler: Callable[[Call], Verdict], roles: frozenset[str], summary: str, body: type[Body], **tells: Any) -> Route:
        return Route("POST", path, money(handler), roles, summary, body, MoneyQuery, "money", _MONEY, idempotent=True, **tells)

    history_pages = {200: (Page[HistoryRow], CSV, NDJSON)}
    return (
        read("/wallets/{id}/balance", balance, "A wallet's balance, now or at a time", BalanceView, BalanceQuery),
        read("/wallets/{id}/transactions", history, "A wallet's history", history_pages, HistoryQuery),
        read("/wallets/{id}/grants", grants, "A wallet's grants and what is left of them", Page[GrantView], PageQuery),
        verb(
            *("/wallets/{id}/grants", service.grant, ISSUERS, "Grant credits", GrantBody),
            answers=_made(GrantedView),
            refuses=(*_GIVING, *_REFERENCE),
        ),
        verb(
            *("/wallets/{id}/grants/{gid}/void", service.void_grant, ISSUERS, "Take back what is left of a grant", NoBody),
            answers=GrantedView,
            refuses=(*_TAKING, "409 grant-ended"),
        ),
        verb(
            *("/wallets/{id}/debits", service.debit, WRITERS, "Spend credits", DebitBody),
            answers=_made(TransactionView),
            refuses=(*_TAKING, *_REFERENCE),
        ),
        verb(
            *("/transfers", service.transfer, WRITERS, "Move credits to another wallet", TransferBody),
            answers=_made(TransactionView),
            refuses=(*_MOVING, *_REFERENCE),
        ),
        verb(
            *("/wallets/{id}/holds", service.hold, WRITERS, "Reserve credits", HoldBody),
            answers=_made(HoldView),
            refuses=(*_TAKING, "409 too-many-holds"),
        ),
        read("/holds", holds, "The caller's holds", Page[HoldView], HoldsQuery),
        read("/holds/{id}", hold, "A hold", HoldView),
        verb(
            *("/holds/{id}/capture", service.capture, WRITERS, "Pay out of a hold", CaptureBody),
            answers=CapturedView,
            refuses=(*_OF_HOLD, *_MOVING, "422 capture-exceeds-hold"),
        ),
        verb(
            *("/holds/{id}/release", service.release, WRITERS, "Give back what a hold reserves", NoBody),
            answers=HoldView,
            refuses=_OF_HOLD,
        ),
        verb(
            *("/holds/{id}/adjust", service.adjust, WRITERS, "Change a hold's amount or its end", AdjustBody),
            answers=HoldView,
            refuses=(*_OF_HOLD, "402 insufficient-funds"),
        ),
        read("/transactions/{id}", transaction, "A transaction", TransactionView),
        verb(
            *("/transactions/{id}/reversals", service.reverse, WRITERS, "Take a transaction back, or a part of it", ReversalBody),
            answers=_made(TransactionView),
            refuses=(*_TAKING, *_GIVING, "409 already-reversed", "409 not-reversible", "422 reversal-exceeds-original"),
        ),
        verb(
            *("/batches", service.batch, WRITERS, "Several verbs in one request", BatchBody),
            answers=BatchView,
            # Those of a verb that is an item by itself stand with the item.
            refuses=("413 batch-too-large", "422 batch-failed"),
        ),
    )


def alert_routes(service: AlertService) -> tuple[Route, ...]:
    """The routes of a wallet's alerts, with handlers that call `service`."""
    path = "/wallets/{id}/alerts"

    def index(call: Call) -> Answer:
        return Answer(service.page(call.caller, call.params["id"], call.query))

    def create(call: Call) -> Answer:
        return Answer(service.set(call.caller, call.params["id"], call.body), 201)

    def remove(call: Call) -> Answer:
        service.remove(call.caller, call.params["id"], call.params["aid"])
        return Answer(status=204)

    return (
        Route("GET", path, index, EVERYONE, "A wallet's alerts", query=PageQuery, scope=_READ, answers=Page[AlertView]),
        Route(
            "POST",
            path,
            create,
            WRITERS,
            "Be told when a balance crosses a threshold",
            AlertBody,
            scope=_WRITE,
            answers={201: AlertView},
            refuses=("409 too-many-alerts",),
        ),
        Route("DELETE", f"{path}/{{aid}}", remove, WRITERS, "Forget an alert", scope=_WRITE, answers=NOTHING),
    )


def _made(view: type[View]) -> Answers:
    """What a verb answers that makes something, and what its dry run does."""
    return {201: view, 200: view}


def verdict_answer(verdict: Verdict) -> Answer:
    """The verdict over HTTP: its body as it was decided, or its problem raised, as a replay where it is one."""
    headers = REPLAYED if verdict.replayed else {}
    if verdict.status >= 400:
        problem = json.loads(verdict.body)
        metrics.REFUSALS.labels(problem["code"]).inc()
        raise StoredProblem(problem, headers)
    return Answer(status=verdict.status, headers=dict(headers), content=verdict.body, content_type="application/json")

"""The routes of the money verbs and of what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable

from core import metrics
from core.modules.transactions_module.alert_service import AlertService
from core.modules.transactions_module.commands import Verdict
from core.modules.transactions_module.schemas import (
    AdjustBody,
    AlertBody,
    BalanceQuery,
    BatchBody,
    CaptureBody,
    DebitBody,
    GrantBody,
    HistoryQuery,
    HoldBody,
    HoldsQuery,
    MoneyQuery,
    NoBody,
    ReversalBody,
    TransferBody,
)
from core.modules.transactions_module.service import TransactionService
from core.modules.transactions_module.statements import CSV, NDJSON, as_csv, as_ndjson
from core.web.models import Body, PageQuery
from core.web.routing import EVERYONE, ISSUERS, WRITERS, Answer, Call, Route
from tools.error_handling.errors import StoredProblem

_READ, _WRITE, _MONEY = "wallets:read", "wallets:write", "money"
REPLAYED = {"Idempotency-Replayed": "true"}


def transaction_routes(service: TransactionService) -> tuple[Route, ...]:
    """The module's routes, with handlers that call `service`."""

    def money(verb: Callable[[Call], Verdict]) -> Callable[[Call], Answer]:
        return lambda call: _answer(verb(call))

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

    def verb(path: str, handler: Callable[[Call], Verdict], roles: frozenset[str], summary: str, body: type[Body]) -> Route:
        return Route("POST", path, money(handler), roles, summary, body, MoneyQuery, limit="money", scope=_MONEY, idempotent=True)

    return (
        Route("GET", "/wallets/{id}/balance", balance, EVERYONE, "A wallet's balance, now or at a time", query=BalanceQuery, scope=_READ),
        Route("GET", "/wallets/{id}/transactions", history, EVERYONE, "A wallet's history", query=HistoryQuery, scope=_READ),
        Route("GET", "/wallets/{id}/grants", grants, EVERYONE, "A wallet's grants and what is left of them", query=PageQuery, scope=_READ),
        verb("/wallets/{id}/grants", service.grant, ISSUERS, "Grant credits", GrantBody),
        verb("/wallets/{id}/grants/{gid}/void", service.void_grant, ISSUERS, "Take back what is left of a grant", NoBody),
        verb("/wallets/{id}/debits", service.debit, WRITERS, "Spend credits", DebitBody),
        verb("/transfers", service.transfer, WRITERS, "Move credits to another wallet", TransferBody),
        verb("/wallets/{id}/holds", service.hold, WRITERS, "Reserve credits", HoldBody),
        Route("GET", "/holds", holds, EVERYONE, "The caller's holds", query=HoldsQuery, scope=_READ),
        Route("GET", "/holds/{id}", hold, EVERYONE, "A hold", scope=_READ),
        verb("/holds/{id}/capture", service.capture, WRITERS, "Pay out of a hold", CaptureBody),
        verb("/holds/{id}/release", service.release, WRITERS, "Give back what a hold reserves", NoBody),
        verb("/holds/{id}/adjust", service.adjust, WRITERS, "Change a hold's amount or its end", AdjustBody),
        Route("GET", "/transactions/{id}", transaction, EVERYONE, "A transaction", scope=_READ),
        verb("/transactions/{id}/reversals", service.reverse, WRITERS, "Take a transaction back, or a part of it", ReversalBody),
        verb("/batches", service.batch, WRITERS, "Several verbs in one request", BatchBody),
    )


def alert_routes(service: AlertService) -> tuple[Route, ...]:
    """The routes of a wallet's alerts, with handlers that call `service`."""

    def index(call: Call) -> Answer:
        return Answer(service.page(call.caller, call.params["id"], call.query))

    def create(call: Call) -> Answer:
        return Answer(service.set(call.caller, call.params["id"], call.body), 201)

    def remove(call: Call) -> Answer:
        service.remove(call.caller, call.params["id"], call.params["aid"])
        return Answer(status=204)

    return (
        Route("GET", "/wallets/{id}/alerts", index, EVERYONE, "A wallet's alerts", query=PageQuery, scope=_READ),
        Route("POST", "/wallets/{id}/alerts", create, WRITERS, "Be told when a balance crosses a threshold", AlertBody, scope=_WRITE),
        Route("DELETE", "/wallets/{id}/alerts/{aid}", remove, WRITERS, "Forget an alert", scope=_WRITE),
    )


def _answer(verdict: Verdict) -> Answer:
    headers = REPLAYED if verdict.replayed else {}
    if verdict.status >= 400:
        problem = json.loads(verdict.body)
        metrics.REFUSALS.labels(problem["code"]).inc()
        raise StoredProblem(problem, headers)
    return Answer(status=verdict.status, headers=dict(headers), content=verdict.body, content_type="application/json")

"""The routes of the money verbs and of what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable

from core import metrics
from core.modules.transactions_module.commands import Verdict
from core.modules.transactions_module.schemas import BalanceQuery, DebitBody, GrantBody, HistoryQuery, MoneyQuery, TransferBody
from core.modules.transactions_module.service import TransactionService
from core.web.models import PageQuery
from core.web.routing import EVERYONE, ISSUERS, WRITERS, Answer, Call, Route
from tools.error_handling.errors import StoredProblem

_READ, _MONEY = "wallets:read", "money"
REPLAYED = {"Idempotency-Replayed": "true"}


def transaction_routes(service: TransactionService) -> tuple[Route, ...]:
    """The module's routes, with handlers that call `service`."""

    def money(verb: Callable[[Call], Verdict]) -> Callable[[Call], Answer]:
        return lambda call: _answer(verb(call))

    def balance(call: Call) -> Answer:
        return Answer(service.balance(call.caller, call.params["id"], call.query.at))

    def history(call: Call) -> Answer:
        return Answer(service.history(call.caller, call.params["id"], call.query))

    def grants(call: Call) -> Answer:
        return Answer(service.grants(call.caller, call.params["id"], call.query))

    def transaction(call: Call) -> Answer:
        return Answer(service.transaction(call.caller, call.params["id"]))

    verbs = {"query": MoneyQuery, "limit": "money", "scope": _MONEY, "idempotent": True}
    return (
        Route("GET", "/wallets/{id}/balance", balance, EVERYONE, "A wallet's balance, now or at a time", query=BalanceQuery, scope=_READ),
        Route("GET", "/wallets/{id}/transactions", history, EVERYONE, "A wallet's history", query=HistoryQuery, scope=_READ),
        Route("GET", "/wallets/{id}/grants", grants, EVERYONE, "A wallet's grants and what is left of them", query=PageQuery, scope=_READ),
        Route("POST", "/wallets/{id}/grants", money(service.grant), ISSUERS, "Grant credits", GrantBody, **verbs),  # type: ignore[arg-type]
        Route("POST", "/wallets/{id}/debits", money(service.debit), WRITERS, "Spend credits", DebitBody, **verbs),  # type: ignore[arg-type]
        Route("POST", "/transfers", money(service.transfer), WRITERS, "Move credits to another wallet", TransferBody, **verbs),  # type: ignore[arg-type]
        Route("GET", "/transactions/{id}", transaction, EVERYONE, "A transaction", scope=_READ),
    )


def _answer(verdict: Verdict) -> Answer:
    headers = REPLAYED if verdict.replayed else {}
    if verdict.status >= 400:
        problem = json.loads(verdict.body)
        metrics.REFUSALS.labels(problem["code"]).inc()
        raise StoredProblem(problem, headers)
    return Answer(status=verdict.status, headers=dict(headers), content=verdict.body, content_type="application/json")

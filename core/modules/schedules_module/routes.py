"""The routes of scheduled transfers."""

from __future__ import annotations

from core.modules.schedules_module.schemas import RunView, ScheduleBody, SchedulesQuery, ScheduleView
from core.modules.schedules_module.service import ScheduleService
from core.modules.transactions_module.routes import verdict_answer
from core.modules.transactions_module.schemas import MoneyQuery
from core.web.answers import NOTHING, Page
from core.web.models import PageQuery
from core.web.routing import EVERYONE, WRITERS, Answer, Call, Route

_READ, _MONEY = "wallets:read", "money"
_LIST, _RUNS = "The caller's scheduled transfers", "What a scheduled transfer has done"


def schedule_routes(service: ScheduleService) -> tuple[Route, ...]:
    """The module's routes, with handlers that call `service`."""

    def create(call: Call) -> Answer:
        return verdict_answer(service.create(call))

    def index(call: Call) -> Answer:
        return Answer(service.page(call.caller, call.query))

    def show(call: Call) -> Answer:
        return Answer(service.get(call.caller, call.params["id"]))

    def runs(call: Call) -> Answer:
        return Answer(service.runs(call.caller, call.params["id"], call.query))

    def cancel(call: Call) -> Answer:
        service.cancel(call.caller, call.params["id"])
        return Answer(status=204)

    path = "/schedules/{id}"
    return (
        Route(
            "POST",
            "/schedules",
            create,
            WRITERS,
            "Schedule a transfer, once or by a recurrence rule",
            ScheduleBody,
            MoneyQuery,
            limit="money",
            scope=_MONEY,
            idempotent=True,
            answers={201: ScheduleView, 200: ScheduleView},
            refuses=("404 not-found", "409 too-many-schedules", "422 same-wallet", "422 asset-mismatch"),
        ),
        Route("GET", "/schedules", index, EVERYONE, _LIST, query=SchedulesQuery, scope=_READ, answers=Page[ScheduleView]),
        Route("GET", path, show, EVERYONE, "A scheduled transfer", scope=_READ, answers=ScheduleView),
        Route("GET", f"{path}/runs", runs, EVERYONE, _RUNS, query=PageQuery, scope=_READ, answers=Page[RunView]),
        Route("DELETE", path, cancel, WRITERS, "Cancel a scheduled transfer", scope=_MONEY, answers=NOTHING),
    )

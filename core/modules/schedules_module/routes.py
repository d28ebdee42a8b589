"""The routes of scheduled transfers."""

from __future__ import annotations

from core.modules.schedules_module.schemas import ScheduleBody, SchedulesQuery
from core.modules.schedules_module.service import ScheduleService
from core.modules.transactions_module.routes import verdict_answer
from core.modules.transactions_module.schemas import MoneyQuery
from core.web.models import PageQuery
from core.web.routing import EVERYONE, WRITERS, Answer, Call, Route

_READ, _MONEY = "wallets:read", "money"


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
        ),
        Route("GET", "/schedules", index, EVERYONE, "The caller's scheduled transfers", query=SchedulesQuery, scope=_READ),
        Route("GET", "/schedules/{id}", show, EVERYONE, "A scheduled transfer", scope=_READ),
        Route("GET", "/schedules/{id}/runs", runs, EVERYONE, "What a scheduled transfer has done", query=PageQuery, scope=_READ),
        Route("DELETE", "/schedules/{id}", cancel, WRITERS, "Cancel a scheduled transfer", scope=_MONEY),
    )

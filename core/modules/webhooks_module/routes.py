"""The routes of webhooks and of what was delivered to them."""

from __future__ import annotations

from core.modules.webhooks_module.schemas import DeliveriesQuery, DeliveryView, NewWebhookView, WebhookBody, WebhookPatch, WebhookView
from core.modules.webhooks_module.service import WebhookService
from core.web.answers import NOTHING, Page
from core.web.models import PageQuery
from core.web.routing import ISSUERS, Answer, Call, Route

_SCOPE = "webhooks"


def webhook_routes(service: WebhookService) -> tuple[Route, ...]:
    """The module's routes, with handlers that call `service`."""

    def index(call: Call) -> Answer:
        return Answer(service.page(call.caller, call.query))

    def create(call: Call) -> Answer:
        return Answer(service.create(call.caller, call.body), 201)

    def show(call: Call) -> Answer:
        return Answer(service.get(call.caller, call.params["id"]))

    def change(call: Call) -> Answer:
        return Answer(service.change(call.caller, call.params["id"], call.body))

    def remove(call: Call) -> Answer:
        service.remove(call.caller, call.params["id"])
        return Answer(status=204)

    def deliveries(call: Call) -> Answer:
        return Answer(service.deliveries(call.caller, call.params["id"], call.query))

    def replay(call: Call) -> Answer:
        return Answer(service.replay(call.caller, call.params["id"], call.params["delivery_id"]), 202)

    return (
        Route("GET", "/webhooks", index, ISSUERS, "The caller's webhooks", query=PageQuery, scope=_SCOPE, answers=Page[WebhookView]),
        Route(
            "POST",
            "/webhooks",
            create,
            ISSUERS,
            "Have events sent to a URL",
            body=WebhookBody,
            scope=_SCOPE,
            answers={201: NewWebhookView},
            refuses=("409 too-many-webhooks",),
        ),
        Route("GET", "/webhooks/{id}", show, ISSUERS, "A webhook and how it fares", scope=_SCOPE, answers=WebhookView),
        Route(
            "PATCH",
            "/webhooks/{id}",
            change,
            ISSUERS,
            "Change a webhook, or start it again",
            body=WebhookPatch,
            scope=_SCOPE,
            answers=WebhookView,
        ),
        Route("DELETE", "/webhooks/{id}", remove, ISSUERS, "Delete a webhook", scope=_SCOPE, answers=NOTHING),
        Route(
            "GET",
            "/webhooks/{id}/deliveries",
            deliveries,
            ISSUERS,
            "What was sent to a webhook, and what came of it",
            query=DeliveriesQuery,
            scope=_SCOPE,
            answers=Page[DeliveryView],
        ),
        Route(
            "POST",
            "/webhooks/{id}/deliveries/{delivery_id}/replay",
            replay,
            ISSUERS,
            "Send an event to a webhook once more",
            scope=_SCOPE,
            answers={202: DeliveryView},
            refuses=("409 webhook-disabled",),
        ),
    )

"""What comes in and goes out of the webhook routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from core.modules.webhooks_module.targets import MAX_URL_LENGTH
from core.web.answers import Time, UserId, View
from core.web.models import Body, PageQuery, Text
from utils.clock import rfc3339

Url = Annotated[Text, Field(min_length=1, max_length=MAX_URL_LENGTH)]
Events = Annotated[list[Annotated[Text, Field(min_length=1, max_length=64)]], Field(min_length=1, max_length=50)]
Description = Annotated[Text, Field(max_length=140)]


class WebhookBody(Body):
    """`events`: types, all of a kind as `hold.*`, or `*`."""

    url: Url
    events: Events
    description: Description = ""


class WebhookPatch(Body):
    """What is to change; `active` starts one again that was disabled."""

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    status: Literal["active", "disabled"] | None = Field(default=None, examples=["active"])

    @model_validator(mode="after")
    def _says_something(self) -> WebhookPatch:
        if not self.model_dump(exclude_none=True):
            raise ValueError("give url, events, description or status")
        return self


class DeliveriesQuery(PageQuery):
    """Deliveries in one status only."""

    status: Literal["pending", "delivered", "failed", "cancelled"] | None = None


class WebhookView(View):
    """`failing_since`: nothing has arrived since then. `url` is null when its owner was erased."""

    id: Annotated[str, Field(examples=["wh_019aa5f07c3e5b1d9e4f2a68"])]
    owner_id: UserId
    url: Annotated[str | None, Field(examples=["https://shop.example.com/credit-events"])]
    events: Annotated[list[str], Field(examples=[["transaction.posted", "hold.*"]])]
    description: str
    status: Literal["active", "disabled"]
    disabled_reason: Literal["by-hand", "failing", "owner-gone"] | None
    failing_since: Time | None
    created_at: Time


class NewWebhookView(WebhookView):
    """With the secret, which is shown this once."""

    secret: Annotated[str, Field(examples=["whsec_..."])]


class AttemptView(View):
    """What came of one attempt: a status code, or why there is none."""

    at: Time
    status_code: Annotated[int | None, Field(examples=[200])]
    error: Literal["dns", "address", "timeout", "tls", "connection", "protocol"] | None
    duration_ms: int


class DeliveryView(View):
    """`next_attempt_at` is null when there will be none; `replay_of` names the delivery that this one repeats."""

    id: Annotated[str, Field(examples=["wd_019aa5f07c3e5b1d9e4f2a68"])]
    webhook_id: str
    event_id: Annotated[str, Field(examples=["ev_6b025b5d12869dacf0e91346_0"])]
    event_type: Annotated[str, Field(examples=["transaction.posted"])]
    status: Literal["pending", "delivered", "failed", "cancelled"]
    attempts: list[AttemptView]
    next_attempt_at: Time | None
    replay_of: str | None
    created_at: Time


def webhook_view(webhook: dict[str, Any]) -> dict[str, Any]:
    """A webhook as its owner sees it; `failing_since`: nothing has arrived since then. The secret is not in it."""
    return {
        "id": webhook["_id"],
        "owner_id": webhook["owner_id"],
        "url": webhook.get("url"),
        "events": webhook["events"],
        "description": webhook.get("description", ""),
        "status": webhook["status"],
        "disabled_reason": webhook["disabled_reason"],
        "failing_since": _time(webhook["failing_since"]),
        "created_at": rfc3339(webhook["created_at"]),
    }


def delivery_view(delivery: dict[str, Any]) -> dict[str, Any]:
    """A delivery with what came of each attempt: `{at, status_code, error, duration_ms}`, of which one of the two is null."""
    return {
        "id": delivery["_id"],
        "webhook_id": delivery["webhook_id"],
        "event_id": delivery["event_id"],
        "event_type": delivery["event_type"],
        "status": delivery["status"],
        "attempts": [{**attempt, "at": rfc3339(attempt["at"])} for attempt in delivery["attempts"]],
        "next_attempt_at": _time(delivery.get("next_attempt_at")),
        "replay_of": delivery["replay_of"],
        "created_at": rfc3339(delivery["created_at"]),
    }


def _time(moment: datetime | None) -> str | None:
    return rfc3339(moment) if moment is not None else None

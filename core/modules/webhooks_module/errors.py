"""The refusals of the webhooks, each with its code."""

from __future__ import annotations

from collections.abc import Sequence

from tools.error_handling.errors import Conflict, NotFound, Unprocessable


def webhook_not_found() -> NotFound:
    return NotFound("There is no such webhook.")


def delivery_not_found() -> NotFound:
    return NotFound("There is no such delivery.")


def unknown_events(known: Sequence[str]) -> Unprocessable:
    return Unprocessable.of_field("events", f"must each be one of {', '.join(known)}, all of a kind such as hold.*, or *")


def url_refused(why: str) -> Unprocessable:
    return Unprocessable.of_field("url", why)


def too_many_webhooks(limit: int) -> Conflict:
    return Conflict(f"You have {limit} webhooks.", code="too-many-webhooks", title="Too many webhooks")


def webhook_disabled() -> Conflict:
    return Conflict("The webhook is disabled: nothing is sent to it.", code="webhook-disabled", title="Webhook disabled")

"""`flask webhooks`: who is told of events, and what came of it."""

from __future__ import annotations

import click

from core.cli.operator import operator
from core.cli.output import Group, json_option, limit_option, show, show_rows

_ONE = "/webhooks/{id}"
_COLUMNS = ("id", "owner_id", "status", "disabled_reason", "failing_since", "events", "url")
_DELIVERIES = ("id", "event_type", "status", "next_attempt_at", "created_at")

webhook_argument = click.argument("webhook")


@click.group(cls=Group)
def webhooks() -> None:
    """Webhooks. WEBHOOK is an id."""


@webhooks.command("list")
@limit_option
@json_option
def list_(limit: int, as_json: bool) -> None:
    """Show all webhooks, the newest first."""
    with operator(as_json) as us:
        show_rows(us.rows("GET /webhooks"), _COLUMNS, limit, as_json)


@webhooks.command()
@webhook_argument
@json_option
def enable(webhook: str, as_json: bool) -> None:
    """Start a webhook again, with a clean slate."""
    _change(webhook, "active", as_json)


@webhooks.command()
@webhook_argument
@json_option
def disable(webhook: str, as_json: bool) -> None:
    """Stop a webhook until it is enabled again."""
    _change(webhook, "disabled", as_json)


@webhooks.command()
@webhook_argument
@click.option("--status", type=click.Choice(["pending", "delivered", "failed", "cancelled"]), help="Only those.")
@limit_option
@json_option
def deliveries(webhook: str, status: str | None, limit: int, as_json: bool) -> None:
    """Show what was and will be delivered, the newest first, for 30 days."""
    with operator(as_json) as us:
        rows = us.rows(f"GET {_ONE}/deliveries", params={"id": webhook}, query={"status": status})
        show_rows(rows, _DELIVERIES, limit, as_json)


@webhooks.command()
@webhook_argument
@click.argument("delivery")
@json_option
def replay(webhook: str, delivery: str, as_json: bool) -> None:
    """Deliver the same event once more; a running application does it."""
    with operator(as_json) as us:
        params = {"id": webhook, "delivery_id": delivery}
        show(us.ask(f"POST {_ONE}/deliveries/{{delivery_id}}/replay", params=params), as_json)


def _change(webhook: str, status: str, as_json: bool) -> None:
    with operator(as_json) as us:
        show(us.ask(f"PATCH {_ONE}", params={"id": webhook}, body={"status": status}), as_json)

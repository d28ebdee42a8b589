"""`flask schedules`: scheduled transfers, and their end."""

from __future__ import annotations

import click

from core.cli.operator import operator
from core.cli.output import Group, confirm, json_option, limit_option, show, show_rows, yes_option

_COLUMNS = ("id", "status", "source", "destination", "amount", "next_run_at", "rrule", "runs")


@click.group(cls=Group)
def schedules() -> None:
    """Scheduled transfers."""


@schedules.command("list")
@click.option("--owner", help="Only those that pay out of this user's wallets (id, username or e-mail address).")
@click.option("--status", type=click.Choice(["active", "finished", "cancelled", "failed"]), help="Only those.")
@limit_option
@json_option
def list_(owner: str | None, status: str | None, limit: int, as_json: bool) -> None:
    """Show scheduled transfers, the newest first."""
    with operator(as_json) as us:
        query = {"owner_id": us.user_id(owner) if owner is not None else None, "status": status}
        show_rows(us.rows("GET /schedules", query=query), _COLUMNS, limit, as_json)


@schedules.command()
@click.argument("schedule")
@yes_option
@json_option
def cancel(schedule: str, yes: bool, as_json: bool) -> None:
    """End a schedule: what has not run by now never will."""
    confirm(f"Cancel the schedule {schedule} for ever?", yes)
    with operator(as_json) as us:
        us.ask("DELETE /schedules/{id}", params={"id": schedule})
        show(us.ask("GET /schedules/{id}", params={"id": schedule}), as_json)

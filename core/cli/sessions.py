"""`flask sessions`: who is signed in, and ending that."""

from __future__ import annotations

import click

from core.cli.operator import operator
from core.cli.output import Group, confirm, json_option, limit_option, personal_option, show, show_rows, without, yes_option

_PERSONAL = ("user_agent",)


@click.group(cls=Group)
def sessions() -> None:
    """Sessions of a user: one for each log-in. USER is an id, a username or an e-mail address."""


@sessions.command("list")
@click.argument("user")
@limit_option
@personal_option
@json_option
def list_(user: str, limit: int, personal: bool, as_json: bool) -> None:
    """Show the living sessions of a user, the newest first. The programs that they are of only with --personal."""
    columns = ("id", "created_at", "last_used_at", "expires_at", *(_PERSONAL if personal else ()))
    hidden = ("current", *(() if personal else _PERSONAL))
    with operator(as_json) as us:
        rows = us.rows("GET /auth/sessions", as_user=us.user_id(user))
        show_rows(map(without(hidden, False), rows), columns, limit, as_json)


@sessions.command()
@click.argument("user")
@click.argument("session")
@json_option
def revoke(user: str, session: str, as_json: bool) -> None:
    """End one session: all its tokens and sockets fail from now on."""
    with operator(as_json) as us:
        us.ask("DELETE /auth/sessions/{id}", params={"id": session}, as_user=us.user_id(user))
        show({"id": session, "revoked": True}, as_json)


@sessions.command("revoke-all")
@click.argument("user")
@yes_option
@json_option
def revoke_all(user: str, yes: bool, as_json: bool) -> None:
    """End all sessions of a user. API keys stay: `flask users suspend` stops those, too."""
    confirm(f"Sign {user} out everywhere?", yes)
    with operator(as_json) as us:
        user_id = us.user_id(user)
        us.ask("POST /auth/logout-all", as_user=user_id)
        show({"user_id": user_id, "revoked": True}, as_json)

"""`flask limits` and `flask bans`: how someone stands with the rate limiter, and operators' say in it."""

from __future__ import annotations

import click

from core.cli.operator import operator
from core.cli.output import Group, json_option, limit_option, personal_option, show, show_rows, without
from core.contracts import IDENTIFIER_TYPES
from core.web.system_routes import checked_identifier
from tools.error_handling.errors import Unprocessable

_ONE = "/rate-limits/{type}/{id}"
_POLICIES = ("policy", "types", "algorithm", "quota", "window", "shadow")
_STANDINGS = ("policy", "algorithm", "quota", "used", "remaining", "reset")
_BANS = ("type", "name", "policy", "level", "since", "until")
_PERSONAL = ("id",)

type_argument = click.argument("kind", metavar="TYPE", type=click.Choice(IDENTIFIER_TYPES))
id_argument = click.argument("identifier", metavar="ID")


@click.group(cls=Group)
def limits() -> None:
    """Rate limits. TYPE is ip, user or api_key; ID an address, or the id of a user or a key."""


@limits.command("show")
@click.argument("kind", metavar="[TYPE", type=click.Choice(IDENTIFIER_TYPES), required=False)
@click.argument("identifier", metavar="ID]", required=False)
@json_option
def show_(kind: str | None, identifier: str | None, as_json: bool) -> None:
    """Show which limits there are, or how someone stands."""
    if kind is not None and identifier is None:
        raise click.UsageError("Say whose: TYPE and ID.")
    with operator(as_json) as us:
        if kind is None or identifier is None:
            rows = us.ask("GET /rate-limits")["policies"]
            show_rows(rows, _POLICIES, len(rows), as_json)
            return
        standing = us.ask(f"GET {_ONE}", params={"type": kind, "id": identifier})
    if as_json:
        show(standing, as_json)
        return
    show_rows(standing["policies"], _STANDINGS, len(standing["policies"]), as_json)
    show({name: standing[name] for name in ("violations", "banned_for")}, as_json)


@limits.command()
@type_argument
@id_argument
@json_option
def clear(kind: str, identifier: str, as_json: bool) -> None:
    """Forget what someone has used up, and the violations. A ban stays: `flask bans lift`."""
    with operator(as_json) as us:
        us.ask(f"DELETE {_ONE}", params={"type": kind, "id": identifier})
        show({"type": kind, "cleared": True}, as_json)


@click.group(cls=Group)
def bans() -> None:
    """Bans. TYPE is ip, user or api_key; ID an address, or the id of a user or a key."""


@bans.command("list")
@limit_option
@personal_option
@json_option
def list_(limit: int, personal: bool, as_json: bool) -> None:
    """Show the bans that run. Whom they are for only with --personal; else by a keyed hash."""
    columns = (*(_PERSONAL if personal else ()), *_BANS)
    with operator(as_json) as us:
        show_rows(map(without(_PERSONAL, personal), us.rows("GET /bans")), columns, limit, as_json)


@bans.command()
@type_argument
@id_argument
@click.option("--seconds", type=click.IntRange(1, 10 * 365 * 86_400), default=86_400, show_default=True)
@json_option
def add(kind: str, identifier: str, seconds: int, as_json: bool) -> None:
    """Refuse every request of someone from now on."""
    with operator(as_json) as us:
        try:
            us.app_manager.rate_limiter_manager.ban(checked_identifier(kind, identifier), seconds)
        except ValueError as error:
            raise Unprocessable.of_field("id", str(error)) from None
        show({"type": kind, "banned_for": seconds}, as_json)


@bans.command()
@type_argument
@id_argument
@json_option
def lift(kind: str, identifier: str, as_json: bool) -> None:
    """End someone's ban, and forget how many there were."""
    with operator(as_json) as us:
        us.ask("DELETE /bans/{type}/{id}", params={"type": kind, "id": identifier})
        show({"type": kind, "lifted": True}, as_json)

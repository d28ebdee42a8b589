"""`flask users`: accounts: who there is, with which role, and their end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click

from core.cli.operator import operator
from core.cli.output import Group, confirm, json_option, limit_option, personal_option, show, show_rows, without, yes_option
from core.contracts import USER_DIRECTORY
from core.web.routing import ADMIN, ANALYST, SERVICE, USER, Principal

_ROLES = click.Choice([USER, SERVICE, ANALYST, ADMIN])
_PERSONAL = ("username", "email")
_ONE = "/users/{id}"

user_argument = click.argument("user")


@click.group(cls=Group)
def users() -> None:
    """Accounts. USER is an id, a username or an e-mail address.

    What changes is audited, with the actor `cli:<your account here>`.
    """


@users.command("list")
@click.option("--role", type=_ROLES, help="Only those of this role.")
@limit_option
@personal_option
@json_option
def list_(role: str | None, limit: int, personal: bool, as_json: bool) -> None:
    """Show accounts, the newest first. Names and e-mail addresses only with --personal."""
    columns = ("id", "role", "status", "created_at", *(_PERSONAL if personal else ()))
    with operator(as_json) as us:
        show_rows(map(without(_PERSONAL, personal), us.rows("GET /users", query={"role": role})), columns, limit, as_json)


@users.command("show")
@user_argument
@personal_option
@json_option
def show_(user: str, personal: bool, as_json: bool) -> None:
    """Show one account."""
    with operator(as_json) as us:
        show(without(_PERSONAL, personal)(us.ask(f"GET {_ONE}", params={"id": us.user_id(user)})), as_json)


@users.command()
@click.argument("username")
@click.argument("email")
@click.option("--role", type=_ROLES, default=USER, show_default=True)
@click.option("--password-file", type=click.File(), help="Where the password stands, in the first line; - for standard input.")
@json_option
def create(username: str, email: str, role: str, password_file: TextIO | None, as_json: bool) -> None:
    """Make an account with its default wallet. The password is asked for unless a file has it; it is never an argument."""
    if password_file is not None:
        password = password_file.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    body = {"username": username, "email": email, "password": password, "role": role}
    with operator(as_json) as us:
        show(without(_PERSONAL, False)(us.ask("POST /users", body=body)), as_json)


@users.command()
@user_argument
@click.argument("new_role", metavar="ROLE", type=_ROLES)
@json_option
def role(user: str, new_role: str, as_json: bool) -> None:
    """Give an account another role, which ends its sessions. The last active admin stays one."""
    _change(user, {"role": new_role}, as_json)


@users.command()
@user_argument
@json_option
def suspend(user: str, as_json: bool) -> None:
    """Lock an account: no log-in, no session, no API key, until it is activated again."""
    _change(user, {"status": "suspended"}, as_json)


@users.command()
@user_argument
@json_option
def activate(user: str, as_json: bool) -> None:
    """Unlock an account that was suspended."""
    _change(user, {"status": "active"}, as_json)


@users.command("password-reset")
@user_argument
@click.option("--to", "file", type=click.Path(dir_okay=False, path_type=Path), help="A new file (mode 0600) for the password.")
@yes_option
@json_option
def password_reset(user: str, file: Path | None, yes: bool, as_json: bool) -> None:
    """Replace the password of an account by a one-time password, shown here once, and end all sessions.

    It is good for a day and for one log-in. In that session its user sets a new one (PUT /auth/password).
    """
    confirm(f"End all sessions of {user}, and make the password useless?", yes)
    with operator(as_json) as us, _new_file(file) as out:
        user_id = us.user_id(user)
        directory = us.app_manager.services_manager.get_service(USER_DIRECTORY)
        password = directory.reset_password(Principal(us.actor, ADMIN, ""), user_id)
        if out is not None:
            out.write(f"{password}\n")
        show({"id": user_id, **({"one_time_password": password} if out is None else {"file": str(file)})}, as_json)


@users.command()
@user_argument
@yes_option
@json_option
def erase(user: str, yes: bool, as_json: bool) -> None:
    """Remove the personal data of an account for ever, end its sessions and API keys, and freeze its wallets."""
    confirm(f"Erase the personal data of {user}? Nobody can bring it back.", yes)
    with operator(as_json) as us:
        user_id = us.user_id(user)
        us.ask(f"DELETE {_ONE}", params={"id": user_id})
        show({"id": user_id, "status": "deleted"}, as_json)


def _change(user: str, fields: dict[str, str], as_json: bool) -> None:
    with operator(as_json) as us:
        changed = us.ask(f"PATCH {_ONE}", params={"id": us.user_id(user)}, body=fields)
        show(without(_PERSONAL, False)(changed), as_json)


@contextmanager
def _new_file(path: Path | None) -> Iterator[TextIO | None]:
    """A file that nobody else may read, and that was not there before; it goes again when what should be in it fails."""
    if path is None:
        yield None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    with open(descriptor, "w", encoding="utf-8") as file:
        try:
            yield file
        except BaseException:
            path.unlink()
            raise

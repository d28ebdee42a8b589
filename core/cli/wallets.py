"""`flask wallets`: wallets, what is in them, and credits given and taken by operators."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from core.cli.operator import Operator, operator
from core.cli.output import Group, confirm, json_option, limit_option, show, show_rows, yes_option

_ONE = "/wallets/{id}"
_COLUMNS = ("id", "owner_id", "asset", "settled", "held", "available", "credit_limit", "status")
_WALLET_ID = "w_"
_TYPES = click.Choice(["grant", "debit", "transfer", "capture", "reversal", "expiry"])

_KEY_HELP = "With the same key it happens once, however often you run it. By default a new one, which is shown."
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

wallet_argument = click.argument("wallet")
amount_argument = click.argument("amount", type=int)
time_type = click.DateTime(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d"])


def _checked_key(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _KEY.fullmatch(value):
        raise click.BadParameter("1 to 255 visible ASCII characters")
    return value


def _money_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--reason", help="Shown in the history."),
        click.option("--reference", help="Yours; each can be used once in a wallet."),
        click.option("--idempotency-key", "key", callback=_checked_key, help=_KEY_HELP),
        click.option("--dry-run", is_flag=True, help="Only say what would happen."),
        json_option,
    ):
        command = option(command)
    return command


@click.group(cls=Group)
def wallets() -> None:
    """Wallets; amounts in minor units. WALLET is an id, or a user (id, username, e-mail address): the default wallet."""


@wallets.command("list")
@click.option("--owner", help="Only those of this user.")
@click.option("--asset", help="Only those of this asset.")
@limit_option
@json_option
def list_(owner: str | None, asset: str | None, limit: int, as_json: bool) -> None:
    """Show wallets."""
    with operator(as_json) as us:
        query = {"owner_id": us.user_id(owner) if owner is not None else None, "asset": asset}
        show_rows(us.rows("GET /wallets", query=query), _COLUMNS, limit, as_json)


@wallets.command("show")
@wallet_argument
@json_option
def show_(wallet: str, as_json: bool) -> None:
    """Show one wallet."""
    with operator(as_json) as us:
        show(us.ask(f"GET {_ONE}", params=_named(us, wallet)), as_json)


@wallets.command("open")
@click.argument("owner")
@click.option("--asset", default="CREDIT", show_default=True)
@click.option("--credit-limit", type=int, default=0, show_default=True)
@json_option
def open_(owner: str, asset: str, credit_limit: int, as_json: bool) -> None:
    """Open a wallet of an asset for a user."""
    with operator(as_json) as us:
        body = {"owner_id": us.user_id(owner), "asset": asset, "credit_limit": credit_limit}
        show(us.ask("POST /wallets", body=body), as_json)


@wallets.command()
@wallet_argument
@json_option
def freeze(wallet: str, as_json: bool) -> None:
    """Let nothing in or out."""
    _change(wallet, {"status": "frozen"}, as_json)


@wallets.command()
@wallet_argument
@json_option
def unfreeze(wallet: str, as_json: bool) -> None:
    """Make a wallet that was frozen or closed usable again."""
    _change(wallet, {"status": "active"}, as_json)


@wallets.command()
@wallet_argument
@yes_option
@json_option
def close(wallet: str, yes: bool, as_json: bool) -> None:
    """Close a wallet, which has to be empty."""
    confirm(f"Close the wallet {wallet}?", yes)
    _change(wallet, {"status": "closed"}, as_json)


@wallets.command("credit-limit")
@wallet_argument
@amount_argument
@json_option
def credit_limit_(wallet: str, amount: int, as_json: bool) -> None:
    """Let a wallet go so far below zero."""
    _change(wallet, {"credit_limit": amount}, as_json)


@wallets.command()
@wallet_argument
@amount_argument
@click.option("--category", type=click.Choice(["paid", "promotional"]), default="paid", show_default=True)
@click.option("--expires-at", type=time_type, help="In UTC; by default never.")
@_money_options
def grant(
    *,
    wallet: str,
    amount: int,
    category: str,
    expires_at: datetime | None,
    reason: str | None,
    reference: str | None,
    key: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Issue credits to a wallet."""
    body = {"amount": amount, "category": category, "expires_at": _moment(expires_at), "reason": reason, "reference": reference}
    _move(f"POST {_ONE}/grants", wallet, body, key=key, dry_run=dry_run, as_json=as_json)


@wallets.command()
@wallet_argument
@amount_argument
@_money_options
def debit(*, wallet: str, amount: int, reason: str | None, reference: str | None, key: str | None, dry_run: bool, as_json: bool) -> None:
    """Take credits out of a wallet, as revenue."""
    body = {"amount": amount, "reason": reason, "reference": reference}
    _move(f"POST {_ONE}/debits", wallet, body, key=key, dry_run=dry_run, as_json=as_json)


@wallets.command()
@wallet_argument
@click.option("--at", type=time_type, help="As it was then, in UTC.")
@json_option
def balance(wallet: str, at: datetime | None, as_json: bool) -> None:
    """Show what is in a wallet, now or at a time."""
    with operator(as_json) as us:
        show(us.ask(f"GET {_ONE}/balance", params=_named(us, wallet), query={"at": _moment(at)}), as_json)


@wallets.command()
@wallet_argument
@click.option("--from", "since", type=time_type, help="From then on, in UTC.")
@click.option("--to", "until", type=time_type, help="Before then, in UTC.")
@click.option("--type", "kind", type=_TYPES, help="Only such transactions.")
@click.option("--format", "form", type=click.Choice(["csv", "ndjson"]), default="csv", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format ndjson.")
@click.option("--output", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="A file for it, instead of standard output.")
def statement(
    *, wallet: str, since: datetime | None, until: datetime | None, kind: str | None, form: str, as_json: bool, output: Path | None
) -> None:
    """Write a wallet's whole history, the oldest entry first."""
    query = {"format": "ndjson" if as_json else form, "from": _moment(since), "to": _moment(until), "type": kind}
    with operator(as_json) as us, click.open_file(str(output or "-"), "w", encoding="utf-8") as out:
        for piece in us.text(f"GET {_ONE}/transactions", params=_named(us, wallet), query=query):
            out.write(piece)


def _named(us: Operator, wallet: str) -> dict[str, str]:
    """The wallet that an operator names, as the parameter of a path."""
    if wallet.startswith(_WALLET_ID):
        return {"id": wallet}
    return {"id": us.ask(f"GET {_ONE}", params={"id": "me"}, as_user=us.user_id(wallet))["id"]}


def _change(wallet: str, fields: dict[str, Any], as_json: bool) -> None:
    with operator(as_json) as us:
        show(us.ask(f"PATCH {_ONE}", params=_named(us, wallet), body=fields), as_json)


def _move(route: str, wallet: str, body: dict[str, Any], *, key: str | None, dry_run: bool, as_json: bool) -> None:
    if key is None and not dry_run:
        key = f"cli-{secrets.token_hex(12)}"
        # Whether it has happened, after an interruption, only another run with the same key can tell.
        click.echo(f"--idempotency-key {key}", err=True)
    with operator(as_json) as us:
        show(us.ask(route, params=_named(us, wallet), body=body, query={"dry_run": dry_run}, key=key or ""), as_json)


def _moment(moment: datetime | None) -> str | None:
    return moment.replace(tzinfo=UTC).isoformat() if moment is not None else None

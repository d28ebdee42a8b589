"""What all operators' commands have in common at the terminal: their options, their exit codes, and how records are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import click

DONE, REFUSED, USAGE, BOOT_FAILED, RETRY = range(5)
EXIT_CODES = (
    "Exit codes: 0 done; 1 refused, and nothing was changed; 2 wrong usage; 3 the boot failed; "
    "4 not possible just now, or it is not known whether it was done: run it again (money: with the same --idempotency-key)."
)

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
personal_option = click.option("--personal", is_flag=True, help="Show personal data, too.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
limit_option = click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Show so many at the most.")

Record = Mapping[str, Any]


class _Command(click.Command):
    """A command whose help ends with the exit codes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("epilog", EXIT_CODES)
        super().__init__(*arguments, **options)


class Group(click.Group):
    """A group of commands whose help ends with the exit codes."""

    command_class = _Command


def confirm(question: str, yes: bool) -> None:
    """Go on only when the operator says so, there or by --yes."""
    if not yes:
        click.confirm(question, abort=True, err=True)


def show(record: Record, as_json: bool) -> None:
    """One record: a line for each member; one inside of another by both names, as `grant.id`."""
    if as_json:
        click.echo(json.dumps(record))
        return
    for name, value in _members(record):
        click.echo(f"{name}: {_text(value)}")


def show_rows(rows: Iterable[Record], columns: Sequence[str], limit: int, as_json: bool) -> None:
    """Up to `limit` records: a line each, with these members; as JSON with all that they have."""
    found = list(islice(rows, limit + 1))
    shown = found[:limit]
    if as_json:
        click.echo(json.dumps({"data": shown}))
    else:
        _table(shown, columns)
    if len(found) > limit:
        click.echo(f"There are more than {limit}: raise --limit to see them.", err=True)


def without(names: Sequence[str], personal: bool) -> Callable[[Record], Record]:
    """Leaves members that are personal data out, unless they were asked for."""
    return lambda record: record if personal else {name: value for name, value in record.items() if name not in names}


def _members(record: Record, within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _members(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def _table(rows: Sequence[Record], columns: Sequence[str]) -> None:
    lines = [list(columns), *([_text(row.get(name)) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _text(value: Any) -> str:
    """One line, whatever others have written into it: a terminal obeys what it is shown."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)

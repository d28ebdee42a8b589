"""`flask ledger`: whether it is sound, and taking it from one place to another."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from core.chain import parse_head
from core.cli.booted import booted
from core.cli.progress import Bar
from core.lease import LeaseLost
from tools.error_handling.errors import AppError

if TYPE_CHECKING:
    from core.modules.ledger_module.service import LedgerService
    from core.modules.ledger_module.verification import LedgerReport

_LONGEST_LINE = 20_000_000


@click.group()
def ledger() -> None:
    """The ledger as a whole."""


def _head(_context: click.Context, _option: click.Parameter, value: str) -> str:
    try:
        if value:
            parse_head(value)
    except ValueError as error:
        raise click.BadParameter("expected <number>:<64 hexadecimal digits>") from error
    return value


@ledger.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@click.option(
    "--anchor", default="", callback=_head, help="A head that was noted earlier (<number>:<hash>), through which the chain must go."
)
def verify(as_json: bool, anchor: str) -> None:
    """Recompute everything: the chain, all sums, every balance. Exit code 1 when a row is not as it must be; the first is named."""
    with _service() as service, Bar("verifying") as bar:
        report = service.verify_now(bar.reach, anchor)
    click.echo(json.dumps(report.view()) if as_json else _as_text(report))
    sys.exit(0 if report.ok else 1)


@ledger.command("export")
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path))
def export_(file: Path) -> None:
    """Write the whole ledger, as it is now, to FILE: one JSON object a line."""
    with _service() as service, Bar("exporting") as bar, file.open("w", encoding="utf-8") as out:
        total = service.lines()
        for piece in service.export():
            out.write(piece)
            bar.advance(piece.count("\n"), total)


@ledger.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_(file: Path) -> None:
    """Fill an empty ledger from FILE, and verify it. All or nothing; after an interruption run it again."""
    size = file.stat().st_size
    with _service() as service, Bar("importing") as bar, file.open("rb") as lines:
        done = service.load(iter(lambda: lines.readline(_LONGEST_LINE), b""), lambda _rows: bar.reach(lines.tell(), size))
    click.echo(", ".join(f"{count} {kind}s" for kind, count in done["imported"].items()))
    click.echo(f"head {done['head']}")


@contextmanager
def _service() -> Iterator[LedgerService]:
    with booted() as app_manager:
        try:
            yield app_manager.module_manager.get_module("ledger_module").service
        except (AppError, LeaseLost) as error:
            raise click.ClickException(str(error)) from error


def _as_text(report: LedgerReport) -> str:
    checked = ", ".join(f"{number} {what}" for what, number in report.checked.items())
    unsealed = report.view()["unsealed"]
    lines = [
        f"{'sound' if report.ok else 'BROKEN'}: {checked}",
        f"{unsealed} wait for their seal",
        f"head {report.head}",
    ]
    lines += [f"{each.collection} {each.id or ''}: {each.what}" for each in report.findings]
    return "\n".join(lines)

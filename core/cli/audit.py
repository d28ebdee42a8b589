"""`flask audit`: whether the audit log is what it was."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from core.chain import Report
from core.cli.booted import booted
from core.cli.progress import Bar
from tools.error_handling.errors import AppError


@click.group()
def audit() -> None:
    """The tamper-evident audit log."""


@audit.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@click.option("--anchor", default="", help="A head that was noted earlier (<number>:<hash>), through which the chain must go.")
def verify(as_json: bool, anchor: str) -> None:
    """Compare every row with the chain. Exit code 1 when one was changed, deleted or inserted; the first is named."""
    with booted() as app_manager, Bar("verifying") as bar:
        try:
            report = app_manager.database_manager.verify_audit(bar.reach, anchor)
        except ValueError as error:
            raise click.BadParameter("expected <number>:<64 hexadecimal digits>", param_hint="--anchor") from error
        except AppError as error:
            raise click.ClickException(str(error)) from error
    click.echo(json.dumps({"ok": report.ok, **asdict(report)}) if as_json else _as_text(report))
    sys.exit(0 if report.ok else 1)


def _as_text(report: Report) -> str:
    state = "intact" if report.ok else "BROKEN"
    lines = [f"{state}: {report.rows} rows sealed, {report.unsealed} wait for their seal", f"head {report.head}"]
    lines += [f"{each.kind}: row {each.row or '?'}, number {each.seq}" for each in report.problems]
    return "\n".join(lines)

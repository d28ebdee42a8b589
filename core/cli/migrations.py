"""`flask migrations`: which there are, and applying those that are pending."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from core.cli.booted import booted
from core.cli.progress import Bar
from core.lease import LeaseLost, LeaseTaken
from core.migrations import runner
from tools.error_handling.errors import AppError
from utils.clock import rfc3339

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager


@click.group()
def migrations() -> None:
    """Changes to stored documents that come with a release."""


@migrations.command()
def status() -> None:
    """Show every migration: applied, pending (and how many documents it would change), or changed since it was applied."""
    with _database() as database:
        _show(runner.status(database))


@migrations.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and to how many documents.")
def run(dry_run: bool) -> None:
    """Apply what is pending, in order, beside the running application. Safe to interrupt and to run again."""
    with _database() as database, ExitStack() as bars:
        if dry_run:
            _show([each for each in runner.status(database) if each.state == runner.PENDING])
            return

        def begins(each: runner.Status) -> Callable[[int], None]:
            bars.close()
            bar = bars.enter_context(Bar(each.migration.id))
            return lambda documents: bar.advance(documents, each.documents)

        done = runner.run(database, begins)
        bars.close()
        _show(done)


@contextmanager
def _database() -> Iterator[DatabaseManager]:
    with booted() as app_manager:
        try:
            yield app_manager.database_manager
        except (AppError, LeaseTaken, LeaseLost, runner.MigrationError) as error:
            raise click.ClickException(str(error)) from error


def _show(rows: Sequence[runner.Status]) -> None:
    for each in rows:
        when = f" {rfc3339(each.applied_at)}" if each.applied_at is not None else ""
        click.echo(f"{each.migration.id}  {each.state}{when}  {each.documents} documents  {each.migration.doc}")
    if not rows:
        click.echo("nothing to do")

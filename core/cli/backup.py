"""`flask backup` and `flask restore`: all that MongoDB keeps, into a folder, and back into an empty database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from pymongo.errors import PyMongoError

from core.backup import BackupFailed, back_up
from core.backup_files import BadBackup, Manifest
from core.cli.output import BOOT_FAILED, EXIT_CODES, REFUSED, RETRY, confirm, json_option, show, yes_option
from core.cli.progress import Bar
from core.contracts import ADMIN
from core.managers.app_manager import AppManager
from core.managers.base import BootError
from core.managers.database_clients import RoleClient
from core.modules.ledger_module.repository import ProofRepository
from core.modules.ledger_module.verification import Verification
from core.restore import RestoreFailed, RestoreRefused, check, is_marked, refuse_unfit, restore
from tools.error_handling.errors import AppError
from tools.logger.custom_logger import configure_logging
from utils.config.config import quiet_environment

_ROWS_A_COMMAND = 1000
_AGAIN = "Start it again: it begins anew. Until it ends well, the application does not start on this database."


@click.command("backup", epilog=EXIT_CODES)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@json_option
def backup(folder: Path, as_json: bool) -> None:
    """Write all that MongoDB keeps for us, as it is at this moment, into DIR (new or empty). The application may run meanwhile.

    What is encrypted in the database stays so: keep the secrets elsewhere, and keep those that the manifest names. A folder
    without a manifest.json is no backup. Note the heads that are printed: `flask audit verify --anchor` takes them.
    """
    with _admin_client() as (app_manager, client), Bar("writing") as bar:
        _make_empty(folder)
        manifest = back_up(client, app_manager.config, folder, bar.reach)
    show({"folder": str(folder), **_summary(manifest)}, as_json)


@click.command("restore", epilog=EXIT_CODES)
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--check", "only_check", is_flag=True, help="Only look whether the files are as they were written.")
@click.option("--without-keys", is_flag=True, help="Also where the keys of these settings are not those of the backup.")
@yes_option
@json_option
def restore_(folder: Path, only_check: bool, without_keys: bool, yes: bool, as_json: bool) -> None:
    """Fill an empty database from the backup in DIR, and prove it.

    Nothing is written before all files were found to be as they were. Roles and users have to be there
    (init-scripts/mongodb-init.js), and the application must not run. Afterwards every document is read again and compared, and
    the audit log and the ledger are verified. One that was broken off is begun anew when it is run again.
    """
    try:
        with Bar("checking") as bar:
            manifest = check(folder, bar.reach)
    except BadBackup as error:
        raise click.ClickException(str(error)) from error
    if only_check:
        show(_summary(manifest), as_json)
        return
    with _admin_client() as (app_manager, client):
        refuse_unfit(client, app_manager.config, manifest, without_keys=without_keys)
        if is_marked(client.database):
            confirm(f"{client.database.name} holds a part of a restore that was broken off. Drop that, and begin anew?", yes)
        with Bar("restoring") as bar:
            restore(client, folder, manifest, bar.reach)
        found = _prove(app_manager, manifest)
    show({"database": client.database.name, **_summary(manifest), **found}, as_json)
    sys.exit(REFUSED if found["problems"] else 0)


def _prove(app_manager: AppManager, manifest: Manifest) -> dict[str, Any]:
    """What the chains and the ledger say of themselves; a manager of the database is all that is started for it."""
    database = app_manager.database_manager
    try:
        database.initialize()
        with Bar("verifying the audit log") as bar:
            audit = database.verify_audit(bar.reach, manifest.heads["audit"])
        with Bar("verifying the ledger") as bar:
            ledger = Verification(ProofRepository(database), _ROWS_A_COMMAND, manifest.heads["ledger"])
            for rows in ledger.steps():
                bar.advance(rows, manifest.documents)
    finally:
        database.dispose()
    problems = [f"audit log: {each.kind}, row {each.row}" for each in audit.problems]
    problems += [f"{each.collection} {each.id or ''}: {each.what}" for each in ledger.report.findings]
    return {"audit_rows": audit.rows, "transactions": ledger.report.checked["transactions"], "problems": problems}


@contextmanager
def _admin_client() -> Iterator[tuple[AppManager, RoleClient]]:
    """MongoDB as the admin, and a manager of managers that has the settings and that nothing was started in."""
    app_manager = AppManager(quiet_environment())
    app_manager.config, wrong = app_manager.survey_settings()
    if wrong:
        click.echo("\n".join(wrong), err=True)
        sys.exit(BOOT_FAILED)
    configure_logging(app_manager.config)
    try:
        client = RoleClient(app_manager.config, ADMIN)
        try:
            client.wait_until_usable(app_manager.config["MONGODB_CONNECT_SECONDS"])
            yield app_manager, client
        finally:
            client.close()
    except BootError as error:
        _end(str(error), BOOT_FAILED)
    except (BackupFailed, RestoreRefused) as error:
        _end(f"Error: {error}", REFUSED)
    except (RestoreFailed, BadBackup) as error:
        _end(f"Error: {error} {_AGAIN}", REFUSED)
    except (PyMongoError, AppError) as error:
        # The driver's own words may name people.
        _end(f"Error: MongoDB failed ({type(error).__name__}). Start it again; a restore begins anew.", RETRY)


def _end(text: str, code: int) -> None:
    click.echo(text, err=True)
    sys.exit(code)


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BackupFailed(f"{folder} is not empty: each backup has a folder of its own.")
    except OSError as error:
        raise BackupFailed(f"{folder}: {error.strerror}.") from error


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "backup": manifest.id,
        "created_at": manifest.created_at,
        "collections": len(manifest.parts),
        "documents": manifest.documents,
        "bytes": sum(part.bytes for part in manifest.parts),
        "keys": manifest.keys,
        "audit_head": manifest.heads["audit"],
        "ledger_head": manifest.heads["ledger"],
    }

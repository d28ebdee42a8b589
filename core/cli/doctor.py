"""`flask doctor`: everything that a new deployment gets wrong, a line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import click

from core.cli.output import json_option
from core.doctor import deployment, machine
from core.doctor.application import application
from core.doctor.finding import FAIL, OK, WARN, Finding, findings_of
from core.doctor.mongodb import mongodb
from core.doctor.redis import look_at_redis
from core.doctor.vault import vault
from core.managers.app_manager import AppManager
from tools.logger.custom_logger import configure_logging
from utils.config.config import ConfigError, load_plain, quiet_environment

_EXIT_CODES = {OK: 0, WARN: 1, FAIL: 2}
_COLOURS = {OK: "green", WARN: "yellow", FAIL: "red"}


@click.command(epilog="Exit codes: 0 all is well; 1 there are warnings; 2 something fails.")
@click.option("--quiet", is_flag=True, help="Only what is not well.")
@json_option
def doctor(quiet: bool, as_json: bool) -> None:
    """Look at everything that the application stands on, and say what to do. Works while servers are down.

    Run it with the settings and under the account of the application. It changes nothing.
    """
    found = [finding for finding in _look() if not (quiet and finding.state == OK)]
    worst = max((finding.state for finding in found), key=list(_EXIT_CODES).index, default=OK)
    if as_json:
        click.echo(json.dumps({"state": worst, "findings": [vars(finding) for finding in found]}))
    else:
        for finding in found:
            click.echo(f"{click.style(f'{finding.state:4}', _COLOURS[finding.state])}  {finding.check}: {finding.detail}")
            if finding.advice:
                click.echo(f"      {finding.advice}")
    sys.exit(_EXIT_CODES[worst])


def _look() -> Iterator[Finding]:
    environ = quiet_environment()
    # The folder of the logs is looked at below.
    with suppress(ConfigError, OSError):
        configure_logging(load_plain(environ))
    app_manager = AppManager(environ)
    app_manager.config, wrong = app_manager.survey_settings()
    config = app_manager.config
    yield from deployment.settings(wrong)
    looks: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        ("secrets", lambda: deployment.secrets(config)),
        ("front", lambda: deployment.front(config)),
        ("wires", lambda: deployment.wires(config)),
        ("settings.lenient", lambda: deployment.leniency(config)),
        ("machine.account", deployment.as_root),
        ("machine.folders", lambda: machine.folders(config)),
        ("machine.open_files", lambda: machine.open_files(config)),
        ("machine.port", lambda: machine.port(config)),
        ("mongodb", lambda: mongodb(config)),
        ("redis", lambda: look_at_redis(config)),
        ("vault.address", lambda: deployment.vault_address(config)),
        ("vault", lambda: vault(app_manager)),
        ("application", lambda: application(AppManager(environ))),
    )
    for name, look in looks:
        yield from findings_of(name, look)

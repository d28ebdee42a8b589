"""The managers for the time of one command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from core.managers.app_manager import AppManager
from core.managers.base import BootError
from utils.config.config import quiet_environment


@contextmanager
def booted() -> Iterator[AppManager]:
    """All managers, started as in a worker and disposed at the end; one line and exit code 3 when the boot fails.

    Where Vault is opened by a wrapped secret id, commands need a secret id of their own, which a SECRETS_DIR of their own gives them.
    """
    app_manager = AppManager(quiet_environment())
    try:
        app_manager.spare_wrapped_secret_id()
        app_manager.initialize()
    except BootError as error:
        click.echo(f"boot failed: {error}", err=True)
        sys.exit(3)
    try:
        yield app_manager
    finally:
        app_manager.dispose()

"""Operators' commands in the test's process, on the servers and the application of the other tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner, Result

from core.cli import operator as operator_commands
from core.cli.commands import COMMANDS
from core.managers.app_manager import AppManager
from tests.support.in_process import booted as booted_in_process
from tools.local_stack import LocalStack

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def started(servers: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppManager]:
    """The managers that a command would start, once for all commands of a file."""
    with booted_in_process(servers.environ, tmp_path_factory.mktemp("commands"), WEBHOOK_PRIVATE=1) as app_manager:
        yield app_manager


@pytest.fixture
def run(started: AppManager, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("users", "show", "ada")`: the result of `flask users show ada`."""

    @contextmanager
    def booted() -> Iterator[AppManager]:
        yield started

    monkeypatch.setattr(operator_commands, "booted", booted)
    commands = {command.name: command for command in COMMANDS}

    def run(group: str, *arguments: object, **options: Any) -> Result:
        return CliRunner().invoke(commands[group], [str(argument) for argument in arguments], **options)

    return run


@pytest.fixture
def told(run: Run) -> Callable[..., Any]:
    """As `run`, with --json: what a command tells that does what it is asked."""

    def told(*arguments: object, **options: Any) -> Any:
        done = run(*arguments, "--json", **options)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return told

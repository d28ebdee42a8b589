"""Runs the servers and the application as one: up together, down together, and nothing left behind."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType

from tools.local_stack.process import Process, ServerFailed
from tools.local_stack.settings import Settings
from tools.local_stack.stack import LocalStack

ROOT = Path(__file__).parents[2]
APP_COMMAND = (sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "app:create_app()")
APP_READY_SECONDS = 60.0
APP_STOP_SECONDS = 6.0
WATCH_SECONDS = 0.2
TAIL_LINES = 15
# In DATA_DIR, while it runs: where the servers are, for a shell (`make flask`).
ADDRESSES = "stack.env"
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """Starts the stack, then `app_command` (which serves on `settings.port`), and watches both until a signal."""

    def __init__(self, settings: Settings, write: Callable[[str], object], app_command: Sequence[str] = APP_COMMAND) -> None:
        self._settings = settings
        self._write = write
        self._app_command = app_command
        self._app = Process("app", settings.log_dir.absolute() / "gunicorn.log", death_signal=signal.SIGTERM)
        self._stop_wished = False
        self._addresses = settings.data_dir.absolute() / ADDRESSES
        self._stack = LocalStack(
            settings.data_dir,
            settings.secrets_dir,
            vault=settings.vault,
            test_commands=os.environ.get("STACK_TEST_COMMANDS") == "1",
            mongodb_uri=settings.mongodb_uri,
            redis_url=settings.redis_url,
            database=settings.mongodb_database,
            write=write,
        )

    def run(self) -> int:
        """Until SIGINT, SIGTERM or SIGHUP: exit code 0; until something fails: 1. Either way all of it is stopped."""
        for number in ENDING_SIGNALS:
            signal.signal(number, self._interrupt)
        try:
            self._start()
            self._watch()
            return 0
        except KeyboardInterrupt:
            return 0
        except ServerFailed as error:
            self._write(f"\n{error}\n")
            return 1
        finally:
            self._stop()

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        # From here on a second Ctrl-C changes nothing. The flag is for the case that the raise lands in a callback
        # that cannot pass it on.
        _ignore_signals()
        self._stop_wished = True
        raise KeyboardInterrupt

    def _start(self) -> None:
        check_port(self._settings.host, self._settings.port)
        self._stack.start()
        self._start_app()
        settings = self._settings
        self._write(
            f"ready: {settings.url} (pid {os.getpid()}, {settings.workers} workers, {settings.async_mode}); "
            f"first admin: {settings.secrets_dir}/admin_email and {settings.secrets_dir}/admin_password\n"
        )

    def _start_app(self) -> None:
        self._write(f"{self._app.name:<9} starting ... ")
        began = time.monotonic()
        ours = {**self._settings.for_app(), **self._stack.environ}
        self._write_addresses(ours)
        self._app.start(self._app_command, {**os.environ, **ours}, cwd=ROOT)
        try:
            self._app.wait_until(self._app_is_ready, APP_READY_SECONDS)
        except ServerFailed as error:
            raise ServerFailed(f"{error}\n{self._app.tail(TAIL_LINES)}") from error
        self._write(f"ready {time.monotonic() - began:.1f} s\n")

    def _write_addresses(self, environ: Mapping[str, str]) -> None:
        """They hold no credentials; but an address that somebody has given us might."""
        self._addresses.unlink(missing_ok=True)
        with open(os.open(self._addresses, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines(f"{name}={shlex.quote(value)}\n" for name, value in environ.items())

    def _app_is_ready(self) -> bool:
        self._stack.raise_if_one_ended()
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._settings.host, self._settings.host)  # noqa: S104
        connection = HTTPConnection(host, self._settings.port, timeout=2)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _watch(self) -> None:
        while not self._stop_wished:
            self._app.raise_if_ended()
            self._stack.raise_if_one_ended()
            time.sleep(WATCH_SECONDS)

    def _stop(self) -> None:
        """The application first, so that requests in flight still find their servers."""
        _ignore_signals()
        self._app.stop(APP_STOP_SECONDS)
        if self._stack.holds_folder:
            self._addresses.unlink(missing_ok=True)
        self._stack.stop()
        self._write("stopped\n")


def check_port(host: str, port: int) -> None:
    """ServerFailed when the application could not listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise ServerFailed(f"PORT {port} on {host} cannot be used: {error.strerror}") from error


def _ignore_signals() -> None:
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)

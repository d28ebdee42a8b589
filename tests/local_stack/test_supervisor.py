"""The supervisor behind `make run`: up together, down together, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tools.local_stack.ports import PORTS, is_free

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "tests.local_stack.run_standin"]


class Run:
    """One supervisor in a process of its own."""

    def __init__(self, port: int, data_dir: Path, **environ: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        folders = {"DATA_DIR": str(data_dir), "SECRETS_DIR": str(data_dir.parent / "secrets")}
        self.process = subprocess.Popen(
            RUN,
            cwd=ROOT,
            env={**os.environ, "HOST": "127.0.0.1", "PORT": str(port), **folders, **environ},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.family: list[psutil.Process] = []

    def wait_ready(self) -> str:
        """The ready line."""
        assert self.process.stdout
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("ready: "):
                self.family = psutil.Process(self.process.pid).children(recursive=True)
                return line
        raise AssertionError("".join(said))

    def child(self, name: str) -> psutil.Process:
        return next(child for child in self.family if child.name() == name)

    def finish(self, timeout: float = 10) -> tuple[int, str]:
        """Exit code and what else was said."""
        said, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, said

    def leftovers(self) -> list[psutil.Process]:
        """What of its processes is still there after a moment."""
        _gone, left = psutil.wait_procs(self.family, timeout=2)
        return list(left)


Start = Callable[..., Run]


@pytest.fixture
def port() -> int:
    return next(port for port in reversed(PORTS) if is_free(port))


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Start]:
    runs: list[Run] = []

    def start(**environ: str) -> Run:
        runs.append(Run(port, tmp_path / "data", **environ))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.communicate()
        assert not run.leftovers()


def test_one_line_says_where_it_is_and_how_to_log_in(start: Start, tmp_path: Path) -> None:
    run = start(WORKERS="3", ASYNC_MODE="gevent")
    line = run.wait_ready()
    secrets = tmp_path / "secrets"
    assert line == (
        f"ready: {run.url} (pid {run.process.pid}, 3 workers, gevent); first admin: {secrets}/admin_email and {secrets}/admin_password\n"
    )


def test_the_app_is_told_all_it_needs(start: Start, tmp_path: Path) -> None:
    run = start(VAULT="1")
    run.wait_ready()
    with urllib.request.urlopen(run.url) as answer:
        told = json.load(answer)
    assert told["MONGODB_URI"].startswith("mongodb://127.0.0.1:")
    assert told["REDIS_URL"].startswith("redis://127.0.0.1:")
    assert told["VAULT_ADDR"].startswith("http://127.0.0.1:")
    assert told["LOG_DIR"] == str(tmp_path / "data" / "logs")
    assert (told["WORKERS"], told["ASYNC_MODE"]) == ("2", "eventlet")


def flask(data_dir: Path, arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-s", "flask", f"DATA_DIR={data_dir}", f"ARGS={arguments}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_make_flask_finds_the_servers_of_a_run(start: Start, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    run = start(VAULT="1")
    run.wait_ready()
    with urllib.request.urlopen(run.url) as answer:
        told = json.load(answer)
    shown = flask(data_dir, "settings --json")
    assert shown.returncode == 0, shown.stderr
    settings = json.loads(shown.stdout)
    for key in ("MONGODB_URI", "REDIS_URL", "VAULT_ADDR", "SECRETS_DIR", "LOG_DIR"):
        assert settings[key] == {"value": told[key], "origin": "environment"}
    assert settings["JWT_SECRET"] == {"value": "********", "origin": "vault"}
    addresses = data_dir / "stack.env"
    assert addresses.stat().st_mode & 0o777 == 0o600
    assert not [
        each for each in (tmp_path / "secrets").iterdir() if len(each.read_text()) > 20 and each.read_text() in addresses.read_text()
    ]
    run.process.send_signal(signal.SIGTERM)
    assert run.finish()[0] == 0
    assert not addresses.exists()
    refused = flask(data_dir, "settings")
    assert refused.returncode != 0
    assert "start it with make run" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_cleanly(start: Start, number: signal.Signals) -> None:
    run = start(VAULT="1")
    run.wait_ready()
    assert {child.name() for child in run.family} >= {"mongod", "redis-server", "bao"}
    run.process.send_signal(number)
    assert run.finish() == (0, "stopped\n")
    assert not run.leftovers()


def test_a_second_ctrl_c_and_a_stubborn_app_do_not_leave_anything(start: Start) -> None:
    run = start(STANDIN="stubborn")
    run.wait_ready()
    began = time.monotonic()
    for _ in range(3):
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert run.finish(timeout=15)[0] == 0
    assert time.monotonic() - began < 10
    assert not run.leftovers()


def test_a_signal_while_starting_ends_everything(start: Start) -> None:
    run = start()
    assert run.process.stdout
    said = ""
    while "mongodb" not in said:
        said += run.process.stdout.read(1)
    run.process.send_signal(signal.SIGTERM)
    code, _ = run.finish()
    assert code == 0


@pytest.mark.parametrize("name", ["mongod", "redis-server"])
def test_a_server_that_dies_is_named_and_the_rest_is_stopped(start: Start, name: str) -> None:
    run = start()
    run.wait_ready()
    run.child(name).kill()
    code, said = run.finish()
    assert code == 1
    assert "ended on its own (killed by SIGKILL); its log: " in said
    assert f"{name}.log" in said
    assert not run.leftovers()


def test_an_app_that_dies_is_named(start: Start) -> None:
    run = start()
    run.wait_ready()
    next(child for child in run.family if "standin_app.py" in " ".join(child.cmdline())).kill()
    code, said = run.finish()
    assert code == 1
    assert "app ended on its own (killed by SIGKILL)" in said
    assert not run.leftovers()


def test_an_app_that_cannot_start_is_quoted(start: Start) -> None:
    run = start(STANDIN="fails")
    code, said = run.finish(timeout=30)
    assert code == 1
    assert "app ended on its own (exit code 1)" in said
    assert "jwt_secret is missing" in said


def test_a_killed_supervisor_leaves_nothing_running(start: Start) -> None:
    run = start(VAULT="1")
    run.wait_ready()
    run.process.kill()
    assert not run.leftovers()
    again = start()
    again.wait_ready()


def test_a_taken_port_is_named_before_anything_starts(start: Start, port: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", port)):
        code, said = start().finish()
    assert code == 1
    assert f"PORT {port} on 127.0.0.1 cannot be used" in said
    assert not (tmp_path / "data").exists()


def test_a_second_run_on_the_same_data_is_refused(start: Start, tmp_path: Path) -> None:
    run = start()
    run.wait_ready()
    other = Run(next(other for other in PORTS if is_free(other)), tmp_path / "data")
    code, said = other.finish()
    assert code == 1
    assert "in use by another run" in said
    assert (tmp_path / "data" / "stack.env").exists()
    with urllib.request.urlopen(run.url) as answer:
        assert answer.status == 200

"""Our application under gunicorn, as a process of its own, for the tests that talk to it over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import requests

ROOT = Path(__file__).resolve().parents[2]
# Long: it ends the wait for a server that is not coming, not for one on a busy machine.
START_SECONDS = 120
# Of the tokens of the server that all share.
ACCESS_SECONDS = 7200


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


class AppServer:
    """gunicorn with our settings; `environ` is that of a LocalStack. Its output is in `output`, its logs in `log_dir`.

    `wsgi`: an application of the tests' own instead of ours.
    """

    def __init__(self, environ: Mapping[str, str], folder: Path, *, wsgi: str = "app:create_app()", **settings: object) -> None:
        self._wsgi = wsgi
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.log_dir = folder / "logs"
        self.output = folder / "gunicorn.log"
        own = {"PORT": self.port, "HOST": "127.0.0.1", "WORKERS": 2, "DATA_DIR": folder, "LOG_DIR": self.log_dir, "RATE_LIMIT_SCALE": 1000}
        self.environ = {**os.environ, **environ, **{key: str(value) for key, value in {**own, **settings}.items()}}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> AppServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", self._wsgi]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environ, stdout=output, stderr=output)
        return self.process

    def start(self) -> None:
        """Start, and wait until it is ready."""
        process = self.spawn()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}: {self.output.read_text()[-2000:]}")
            if self.is_ready():
                return
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"the server did not get ready: {self.output.read_text()[-2000:]}")

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/health/ready", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def workers(self) -> list[psutil.Process]:
        """The worker processes that run; one that was killed is none, though gunicorn has yet to take note."""
        assert self.process is not None
        return [child for child in psutil.Process(self.process.pid).children() if _runs(child)]

    def kill_worker(self) -> None:
        """SIGKILL one worker; gunicorn replaces it."""
        self.workers()[0].send_signal(signal.SIGKILL)

    def log_text(self) -> str:
        """Everything that the application has logged."""
        return "".join(path.read_text() for path in sorted(self.log_dir.glob("*.log"))) + self.output.read_text()

    def stop(self, timeout: float = 15) -> int:
        """SIGTERM, then wait; the exit code."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.terminate()
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()
            raise

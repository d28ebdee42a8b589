"""The two apps under gunicorn, with the same workers and the same worker class, each for as long as a `with` lasts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

import psutil
import requests

from bench.result import BenchBroken
from tools.local_stack.ports import kept_port
from tools.local_stack.process import Process, ServerFailed

GUNICORN = [sys.executable, "-W", "ignore", "-m", "gunicorn"]
WORKERS = 2
START_SECONDS = 60.0


@dataclass(frozen=True)
class App:
    """How an app is started, and the path that answers 200 once it is ready."""

    name: str
    arguments: list[str]
    ready_path: str


OURS = App("ours", ["-c", "gunicorn.conf.py", "app:create_app()"], "/health/ready")
# A settings module of its own: gunicorn would otherwise read ours from the working directory.
REFERENCE = App("reference", ["-c", "python:bench.reference_gunicorn", "bench.reference_app:create_app()"], "/health/ready")
BARE_SOCKETS = App("bare", ["-c", "python:bench.reference_gunicorn", "bench.bare_sockets:create_app()"], "/health/ready")


class RunningApp:
    """An app that answers."""

    def __init__(self, process: Process, port: int, workers: int) -> None:
        self.port = port
        self._process = process
        self._workers = workers

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[psutil.Process]:
        """gunicorn's worker processes."""
        workers: list[psutil.Process] = psutil.Process(self._process.pid).children()
        if len(workers) != self._workers:
            raise BenchBroken(f"{self._process.name}: {len(workers)} workers run, not {self._workers}")
        return workers


@contextmanager
def running(app: App, data_dir: Path, environ: Mapping[str, str], workers: int = WORKERS) -> Iterator[RunningApp]:
    """Start `app` on a free port and wait until it is ready; stop it at the end."""
    process = Process(app.name, data_dir / f"{app.name}.log", SIGTERM)
    data_dir.mkdir(parents=True, exist_ok=True)
    port = kept_port(data_dir / f"{app.name}.port")
    process.start([*GUNICORN, *app.arguments], {**environ, "PORT": str(port), "WORKERS": str(workers)})
    try:
        process.wait_until(lambda: _answers(f"http://127.0.0.1:{port}{app.ready_path}"), START_SECONDS)
        time.sleep(1)  # the second worker may still boot
        yield RunningApp(process, port, workers)
    except ServerFailed as error:
        # The log goes away with the bench's folder: its end is all that anybody will see.
        raise BenchBroken(f"{error}\n{process.log.read_text(errors='replace')[-2000:]}") from error
    finally:
        process.stop(15)


def _answers(url: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(url, timeout=5).status_code == 200
    return False

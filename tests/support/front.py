"""HAProxy with the file of the compose stack, in front of copies of the app that the tests have started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import requests

from tests.support.app_server import ROOT, AppServer, free_port
from tests.support.polling import eventually

START_SECONDS = 20
COPIES = 4


class Front:
    """`url` over HTTP and, with a certificate, `secure_url`; `stats_url` is for operators. Its log is in `log`."""

    def __init__(self, apps: Sequence[AppServer], folder: Path, **settings: object) -> None:
        port, secure_port, stats_port = free_port(), free_port(), free_port()
        self.url, self.secure_url, self.stats_url = (
            f"http://127.0.0.1:{port}",
            f"https://127.0.0.1:{secure_port}",
            f"http://127.0.0.1:{stats_port}",
        )
        self.port = port
        self.log = folder / "haproxy.log"
        binds = {"HTTP_BIND": port, "HTTPS_BIND": secure_port, "STATS_BIND": stats_port}
        self._environ = {
            **os.environ,
            **{name: f"127.0.0.1:{port}" for name, port in binds.items()},
            **{f"APP_{number}": f"127.0.0.1:{app.port}" for number, app in enumerate(apps, 1)},
            **{name: str(value) for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Front:
        program = shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")
        if program is None:
            pytest.skip("needs HAProxy: apt-get install haproxy")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen([program, "-f", ROOT / "haproxy" / "haproxy.cfg"], env=self._environ, stdout=log, stderr=log)
        eventually(self.all_up, START_SECONDS, unless=lambda: self._process is None or self._process.poll() is not None)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)

    def states(self) -> dict[str, str]:
        """What HAProxy thinks of each copy: `UP`, `DOWN`, ..."""
        try:
            lines = requests.get(f"{self.stats_url}/;csv", timeout=5).text.removeprefix("# ").splitlines()
        except requests.ConnectionError:
            return {}
        names = lines[0].split(",")
        rows = [dict(zip(names, line.split(","), strict=False)) for line in lines[1:]]
        return {row["svname"]: row["status"] for row in rows if row["pxname"] == "app" and row["svname"] != "BACKEND"}

    def all_up(self) -> bool:
        return list(self.states().values()) == ["UP"] * COPIES

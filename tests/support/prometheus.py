"""Prometheus and Alertmanager with the files of grafana/, hastened, beside an app that the tests have started."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import requests

from tests.support.app_server import ROOT, AppServer, free_port
from tests.support.polling import eventually

GRAFANA = ROOT / "grafana"
START_SECONDS = 30
# What is 15 seconds for operators. No alert waits for its fault to last.
_HASTE = (
    (r"(scrape|evaluation)_interval: 15s", r"\1_interval: 1s"),
    (r"scrape_timeout: 10s", "scrape_timeout: 1s"),
    (r"\n +for: \d+[smh]", ""),
    (r"(group_wait|group_interval): \d+[smh]", r"\1: 1s"),
)


def program(name: str) -> str:
    """Where it is; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install prometheus prometheus-alertmanager")
    return found


class Watch:
    """`with Watch(app, folder, slack) as watch:` both programs; `slack` is where messages go instead of to Slack."""

    def __init__(self, app: AppServer, folder: Path, slack: str, token: str) -> None:
        self._folder = folder
        self._app = app
        self._slack = slack
        self._token = token
        self._programs = {"prometheus": program("prometheus"), "alertmanager": program("prometheus-alertmanager")}
        self.url, self.alertmanager_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self._running.close)
            self._prepare()
            port, other = (url.rpartition("/")[2] for url in (self.url, self.alertmanager_url))
            self._start(
                "prometheus",
                [
                    f"--config.file={self._folder}/prometheus/prometheus.yml",
                    f"--storage.tsdb.path={self._folder}/tsdb",
                    f"--web.listen-address={port}",
                ],
            )
            alertmanager = [f"--config.file={self._folder}/alertmanager/alertmanager.yml", f"--storage.path={self._folder}/alerts"]
            self._start("alertmanager", [*alertmanager, f"--web.listen-address={other}", "--cluster.listen-address="])
            for url in (self.url, self.alertmanager_url):
                eventually(lambda url=url: _is_ready(url), START_SECONDS)  # type: ignore[misc]
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that it gives now; the test fails when it is none that Prometheus understands."""
        answer = requests.post(f"{self.url}/api/v1/query", data={"query": expression}, timeout=20).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def value(self, expression: str) -> float:
        """Of the one series that it gives."""
        [series] = self.query(expression)
        return float(series["value"][1])

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with their health."""
        groups = requests.get(f"{self.url}/api/v1/rules", timeout=20).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {rule["name"] for rule in self.rules() if rule["type"] == "alerting" and rule["state"] == "firing"}

    def scrapes(self) -> float:
        """How often the app was scraped, for those who wait for the next time."""
        found = self.query('count_over_time(up{job="credit-system"}[1h])')
        return float(found[0]["value"][1]) if found else 0

    def wait_for_scrapes(self, number: int = 3) -> None:
        before = self.scrapes()
        eventually(lambda: self.scrapes() >= before + number, START_SECONDS)

    def _prepare(self) -> None:
        """A copy of the files, with targets, secrets and haste of our own."""
        for part in ("prometheus", "alertmanager"):
            shutil.copytree(GRAFANA / part, self._folder / part)
        secrets = self._folder / "secrets"
        secrets.mkdir()
        for name, text in {"metrics_token": self._token, "slack_webhook_url": self._slack, "smtp_password": "x"}.items():
            (secrets / name).write_text(text)
        for path in self._folder.rglob("*.yml"):
            text = path.read_text().replace("/secrets/", f"{secrets}/")
            for pattern, instead in _HASTE:
                text = re.sub(pattern, instead, text)
            path.write_text(text)
        targets = {
            "credit-system": [f"127.0.0.1:{self._app.port}"],
            "alertmanager": [self.alertmanager_url.rpartition("/")[2]],
            "haproxy": [],
        }
        for name, addresses in targets.items():
            (self._folder / "prometheus" / "targets" / f"{name}.yml").write_text(f"- targets: {addresses}\n")

    def _start(self, name: str, options: Sequence[str]) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([self._programs[name], *options], cwd=self._folder, stdout=log, stderr=log)
        self._running.callback(process.wait, 20)
        self._running.callback(process.terminate)


def _is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/-/ready", timeout=2).status_code == 200
    except requests.RequestException:
        return False

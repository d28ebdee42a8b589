"""/metrics: open, or for those who know its token; and what a process tells of itself there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from core.managers.app_manager import AppManager
from tests.support.in_process import booted
from tests.support.polling import eventually
from tools.local_stack import LocalStack

TOKEN = "a token of more than thirty-two characters"


@pytest.fixture(scope="module")
def private(servers: LocalStack, secrets_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppManager]:
    folder = tmp_path_factory.mktemp("private")
    shutil.copytree(secrets_dir, folder / "secrets")
    (folder / "secrets" / "metrics_token").write_text(f"{TOKEN}\n")
    with booted({**servers.environ, "SECRETS_DIR": str(folder / "secrets")}, folder, METRICS_SECONDS=0.5) as manager:
        yield manager


@pytest.fixture
def client(private: AppManager) -> FlaskClient:
    assert private.app is not None
    return private.app.test_client()


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, f"Basic {TOKEN}", "Bearer \xe4"]
)
def test_strangers_are_refused(client: FlaskClient, given: str | None) -> None:
    answer = client.get("/metrics", headers={} if given is None else {"Authorization": given})
    assert (answer.status_code, answer.get_json()["code"]) == (401, "token-invalid")
    assert "credit_" not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_who_knows_the_token_is_told(client: FlaskClient, scheme: str) -> None:
    answer = client.get("/metrics", headers={"Authorization": f"{scheme} {TOKEN}"})
    assert answer.status_code == 200
    assert "credit_http_requests_total" in answer.text


def test_health_asks_for_no_token(client: FlaskClient) -> None:
    assert client.get("/health/live").status_code == 200


def samples(client: FlaskClient) -> dict[tuple[str, str], float]:
    text = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    return {
        (sample.name, sample.labels.get("volume", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not set(sample.labels) - {"volume"}
    }


def test_a_process_tells_its_memory_time_and_disks(client: FlaskClient) -> None:
    volumes = ("data", "logs", "mongodb")
    eventually(lambda: all(("credit_filesystem_size_bytes", volume) in samples(client) for volume in volumes), 20)
    told = samples(client)
    assert told["credit_workers", ""] == 1
    assert told["credit_process_resident_memory_bytes", ""] > 10_000_000
    assert told["credit_process_cpu_seconds_total", ""] > 0
    for volume in volumes:
        assert 0 < told["credit_filesystem_available_bytes", volume] < told["credit_filesystem_size_bytes", volume]

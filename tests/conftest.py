"""Real servers for the whole run: MongoDB (replica set, users), Redis, and our application in front of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from tests.support.app_server import ACCESS_SECONDS, AppServer
from tests.support.client import Client
from tests.support.ledger import assert_sound
from tools.local_stack import LocalStack
from utils import keys


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where everything is installed (CI) a test that skips itself hides something: it fails."""
    outcome: Any = yield
    report = outcome.get_result()
    # What a test has logged may be no UTF-8; the report goes to another process all the same.
    report.sections = [(name, content.encode(errors="backslashreplace").decode()) for name, content in report.sections]
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"


@pytest.fixture(scope="session", autouse=True)
def private_files() -> Iterator[None]:
    """Secrets that everyone on the machine may read are refused: what tests write is for their own user."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture(scope="session", autouse=True)
def stretched_once() -> Iterator[None]:
    """The same secrets are stretched again for every set of managers, a fifth of a second each: here once a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "stretch", lru_cache(maxsize=None)(keys.stretch))
        yield


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """MongoDB and Redis, shared; tests that kill or fill them start their own."""
    folder = tmp_path_factory.mktemp("servers")
    with LocalStack(folder / "data", folder / "secrets", test_commands=True) as stack:
        yield stack


@pytest.fixture(scope="session")
def secrets_dir(servers: LocalStack) -> Path:
    return Path(servers.environ["SECRETS_DIR"])


@pytest.fixture(scope="session")
def server(servers: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """Our application with two eventlet workers. Webhooks may lead to the tests themselves; tokens outlive the run."""
    with AppServer(servers.environ, tmp_path_factory.mktemp("app"), WEBHOOK_PRIVATE=1, JWT_ACCESS_TTL=ACCESS_SECONDS) as running:
        yield running


@pytest.fixture(scope="session")
def admin(server: AppServer, secrets_dir: Path) -> Client:
    return Client.admin(server.url, secrets_dir)


@pytest.fixture
def alice(server: AppServer) -> Client:
    """A new user."""
    return Client.register(server.url)


@pytest.fixture
def bob(server: AppServer) -> Client:
    """Another new user."""
    return Client.register(server.url)


@pytest.fixture(scope="session")
def database(servers: LocalStack, secrets_dir: Path) -> Iterator[Database[dict[str, Any]]]:
    """MongoDB as its root sees it, for what our API does not show."""
    password = (secrets_dir / "mongodb_root_password").read_text().strip()
    with MongoClient(servers.environ["MONGODB_URI"], username="root", password=password, tz_aware=True) as client:
        yield client[servers.environ["MONGODB_DATABASE"]]


@pytest.fixture
def sound_ledger(database: Database[dict[str, Any]]) -> Iterator[None]:
    """Whatever a test does, the ledger is sound afterwards."""
    yield
    assert_sound(database)

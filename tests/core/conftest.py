"""Managers without an application around them: only those that a test asks for, disposed when its file is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.in_process import Managers
from tools.local_stack import LocalStack
from tools.local_stack.dev_secrets import SecretFiles
from tools.local_stack.redis_server import RedisServer

# A database of their own: what these tests do to it (wipe it, above all) is not felt by the application under test.
_REDIS_DATABASE = 7

Factory = Callable[..., Managers]


@pytest.fixture(scope="session")
def environ(servers: LocalStack) -> dict[str, str]:
    """Where the real servers are, for `Managers`."""
    return {**servers.environ, "REDIS_URL": f"{servers.environ['REDIS_URL'].rsplit('/', 1)[0]}/{_REDIS_DATABASE}"}


@pytest.fixture(scope="session")
def stack(servers: LocalStack, secrets_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """An OpenBao beside the MongoDB and Redis of the other tests, with the same secrets."""
    folder = tmp_path_factory.mktemp("vault")
    shutil.copytree(secrets_dir, folder / "secrets")
    theirs = {"mongodb_uri": servers.environ["MONGODB_URI"], "redis_url": servers.environ["REDIS_URL"]}
    with LocalStack(folder / "data", folder / "secrets", vault=True, **theirs) as running:
        yield running


@pytest.fixture
def own_redis(tmp_path: Path, secrets_dir: Path) -> Iterator[RedisServer]:
    """A Redis that the test may pause, kill and wipe."""
    server = RedisServer(tmp_path, SecretFiles(secrets_dir))
    server.start()
    yield server
    server.resume()
    server.stop()


@pytest.fixture
def copied_secrets(tmp_path: Path, secrets_dir: Path) -> Path:
    """The secrets of the real servers, to be changed by the test."""
    return Path(shutil.copytree(secrets_dir, tmp_path / "copied-secrets"))


@pytest.fixture(scope="session")
def rings(secrets_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Path]:
    """`rings([newest, oldest])`: the secrets of the real servers, with these lines as the ring of every kind of key."""

    def make(lines: list[str]) -> Path:
        folder = tmp_path_factory.mktemp("ring") / "secrets"
        shutil.copytree(secrets_dir, folder)
        for name in ("encryption_key", "jwt_secret"):
            (folder / name).write_text("\n".join(lines) + "\n\n")
        return folder

    return make


@pytest.fixture(scope="module")
def app_manager_factory(environ: dict[str, str]) -> Iterator[Factory]:
    """`app_manager_factory("redis", "jwt", JWT_ACCESS_TTL=5)`: these managers, started in BOOT_ORDER with these settings."""
    with ExitStack() as stack:

        def make(*names: str, **settings: object) -> Managers:
            managers = Managers({**environ, **{key: str(value) for key, value in settings.items()}}, *names)
            stack.callback(managers.dispose)
            return managers

        yield make

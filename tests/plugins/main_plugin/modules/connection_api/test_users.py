"""Names while two keys are in use: each is given once, whichever of them a worker takes for the newest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pymongo.database import Database

from core.contracts import Kind
from plugins.main_plugin.modules.connection_api.passwords import Passwords
from plugins.main_plugin.modules.connection_api.queries import Queries
from plugins.main_plugin.modules.connection_api.repository import ConnectionRepository
from plugins.main_plugin.modules.connection_api.users import Users
from tests.support.at_once import at_once
from tests.support.in_process import Managers
from tests.support.own_database import own_database
from tools.error_handling.errors import Conflict
from tools.local_stack import LocalStack

OLD, NEW = "old key material of 32 characters", "new key material of 32 characters"
PASSWORD = "a rather long passphrase"
MakeWorker = Callable[[list[str]], Users]


@pytest.fixture(scope="module")
def stored(servers: LocalStack) -> Iterator[Database[dict[str, Any]]]:
    with own_database(servers, "names_under_two_keys") as database:
        yield database


@pytest.fixture(scope="module")
def make_worker(servers: LocalStack, stored: Database[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeWorker]:
    """`make_worker([newest, oldest])`: the accounts as a worker with these keys has them."""
    with ExitStack() as stack:

        def make(keys: list[str]) -> Users:
            secrets = tmp_path_factory.mktemp("ring") / "secrets"
            shutil.copytree(servers.environ["SECRETS_DIR"], secrets)
            (secrets / "encryption_key").write_text("\n".join(keys))
            environ = {**servers.environ, "SECRETS_DIR": str(secrets), "MONGODB_DATABASE": stored.name}
            managers = Managers(environ, "database", "redis", "encryption", "hooks")
            stack.callback(managers.dispose)
            managers.hooks_manager.declare_hook("user_created", Kind.GATE)
            repository = ConnectionRepository(managers.database_manager, managers.encryption_manager)
            queries = Queries(managers.database_manager, managers.redis_manager)
            hashes = Passwords(1, 8, 8, 64)
            return Users(repository, hashes, None, None, queries=queries, hooks=managers.hooks_manager, pager=None)  # type: ignore[arg-type]

        yield make


def takes(users: Users, name: str, email: str) -> bool:
    try:
        users.create(name, email, PASSWORD)
    except Conflict:
        return False
    return True


def test_workers_that_learn_of_a_promotion_at_different_moments_give_no_name_twice(make_worker: MakeWorker) -> None:
    workers = [make_worker([OLD, NEW]), make_worker([NEW, OLD])]
    for number in range(15):
        # The same name, and then the same address, by both at the same moment.
        name, email = f"canary{number}", f"dove{number}@example.com"
        assert sum(at_once(2, lambda index, name=name: takes(workers[index], name, f"{name}-{index}@example.com"))) == 1
        assert sum(at_once(2, lambda index, email=email: takes(workers[index], f"dove{email[4:6]}{index}", email))) == 1


def test_with_one_key_the_unique_index_is_enough(make_worker: MakeWorker, stored: Database[dict[str, Any]]) -> None:
    stored.settings.delete_many({})
    worker = make_worker([NEW])
    assert sum(at_once(4, lambda index: takes(worker, "sparrow", f"sparrow{index}@example.com"))) == 1
    assert stored.settings.count_documents({}) == 0

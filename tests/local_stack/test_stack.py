"""The servers: they keep port and data, survive what tests do to them, and show no secret to `ps`."""

from __future__ import annotations

import socketserver
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import hvac
import pytest
from hvac.exceptions import Forbidden, VaultDown
from redis.exceptions import AuthenticationError
from redis.exceptions import TimeoutError as RedisTimeout

from tools.local_stack import LocalStack, ServerFailed
from tools.local_stack.mongod import Mongod
from tools.local_stack.openbao import OpenBao
from tools.local_stack.redis_server import RedisServer

Folders = tuple[Path, Path]


def mongod_of(stack: LocalStack) -> Mongod:
    assert stack.mongod
    return stack.mongod


def redis_of(stack: LocalStack) -> RedisServer:
    assert stack.redis
    return stack.redis


def openbao_of(stack: LocalStack) -> OpenBao:
    assert stack.openbao
    return stack.openbao


def remember(stack: LocalStack) -> None:
    with mongod_of(stack).client() as client, redis_of(stack).client() as redis:
        client["credit_system"]["settings"].insert_one({"_id": "kept"})
        redis.set("kept", "yes")


def remembers(stack: LocalStack) -> bool:
    with mongod_of(stack).client() as client, redis_of(stack).client() as redis:
        return bool(client["credit_system"]["settings"].find_one({"_id": "kept"})) and redis.get("kept") == b"yes"


def test_a_restart_keeps_ports_and_data(folders: Folders) -> None:
    with LocalStack(*folders) as stack:
        remember(stack)
        before = stack.environ
    with LocalStack(*folders) as stack:
        assert stack.environ == before
        assert remembers(stack)


@contextmanager
def somebody_on(port: int) -> Iterator[None]:
    """A server of another kind, which hangs up on whoever speaks MongoDB to it."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), socketserver.BaseRequestHandler) as other:
        thread = Thread(target=other.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield
        other.shutdown()
        thread.join()


def test_a_port_that_somebody_took_is_replaced_and_the_data_stays(folders: Folders) -> None:
    with LocalStack(*folders) as stack:
        remember(stack)
        before = mongod_of(stack).port
    with somebody_on(before), LocalStack(*folders) as stack:
        assert mongod_of(stack).port != before
        assert remembers(stack)


def test_data_of_other_secrets_is_refused_with_the_reason(tmp_path: Path) -> None:
    with LocalStack(tmp_path / "data", tmp_path / "secrets"):
        pass
    with pytest.raises(ServerFailed, match="made with other secrets"):
        LocalStack(tmp_path / "data", tmp_path / "others").start()


def test_a_folder_serves_one_stack_at_a_time(stack: LocalStack) -> None:
    second = LocalStack(stack.data_dir, stack.secrets.directory)
    with pytest.raises(ServerFailed, match="in use by another run"):
        second.start()
    assert all(server.process.running for server in stack.servers)


def test_killed_servers_come_back_on_the_same_port_with_their_data(stack: LocalStack) -> None:
    with mongod_of(stack).client() as client:
        client["credit_system"]["settings"].insert_one({"_id": "before the crash"})
    before = stack.environ
    for server in stack.servers:
        server.kill()
        with pytest.raises(ServerFailed, match=f"{server.name} ended on its own .killed by SIGKILL."):
            stack.raise_if_one_ended()
        server.start()
    assert stack.environ == before
    with mongod_of(stack).client() as client:
        assert client["credit_system"]["settings"].find_one({"_id": "before the crash"})


def test_a_paused_server_answers_again_after_resume(stack: LocalStack) -> None:
    redis = redis_of(stack)
    with redis.client() as client:
        client.connection_pool.connection_kwargs["socket_timeout"] = 0.2
        redis.pause()
        try:
            with pytest.raises(RedisTimeout):
                client.ping()
        finally:
            redis.resume()
        assert client.ping()


def test_a_paused_server_can_be_stopped(folders: Folders) -> None:
    stack = LocalStack(*folders)
    stack.start()
    mongod_of(stack).pause()
    began = time.monotonic()
    stack.stop()
    assert time.monotonic() - began < 5


def test_servers_want_a_password(stack: LocalStack) -> None:
    with redis_of(stack).client() as client:
        client.connection_pool.connection_kwargs["password"] = "wrong"
        with pytest.raises(AuthenticationError):
            client.ping()


def test_no_secret_is_on_a_command_line_or_in_an_address(stack: LocalStack) -> None:
    shown = " ".join(stack.environ.values())
    for server in stack.servers:
        shown += Path(f"/proc/{server.pid}/cmdline").read_text()
    secrets = [path.read_text() for path in stack.secrets.directory.iterdir() if not path.name.endswith("_user")]
    assert not [secret for secret in secrets if secret in shown]


def test_test_commands_are_there_when_wished(stack: LocalStack) -> None:
    with mongod_of(stack).client() as client:
        assert client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})["ok"]


def test_vault_gives_the_application_its_secrets_and_nothing_else(stack: LocalStack) -> None:
    client = hvac.Client(url=stack.environ["VAULT_ADDR"])
    client.auth.approle.login(stack.secrets["vault_role_id"], stack.secrets["vault_secret_id"])
    kv = client.secrets.kv.v2
    answer = kv.read_secret_version("credit-system/app", raise_on_deleted_version=True)
    assert answer["data"]["data"] == stack.secrets.for_vault()
    with pytest.raises(Forbidden):
        kv.create_or_update_secret("credit-system/app", secret={})
    with pytest.raises(Forbidden):
        kv.read_secret_version("elsewhere", raise_on_deleted_version=True)


def test_vault_can_be_sealed_and_unsealed(stack: LocalStack) -> None:
    openbao = openbao_of(stack)
    openbao.seal()
    with pytest.raises(VaultDown):
        openbao.client().secrets.kv.v2.read_configuration()
    openbao.unseal()
    assert openbao.client().secrets.kv.v2.read_configuration()


def test_somebody_elses_servers_are_not_started(folders: Folders) -> None:
    said: list[str] = []
    mongodb, redis = "mongodb://db.example/?replicaSet=rs0", "redis://cache.example/0"
    with LocalStack(*folders, mongodb_uri=mongodb, redis_url=redis, write=said.append) as stack:
        assert stack.servers == []
        assert stack.environ["MONGODB_URI"] == mongodb
        assert stack.environ["REDIS_URL"] == redis
        assert not (stack.secrets.directory / "mongodb_password").exists()
    assert "yours, by MONGODB_URI" in said[0]
    assert "yours, by REDIS_URL" in said[1]

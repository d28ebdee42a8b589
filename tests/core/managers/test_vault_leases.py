"""Dynamic secrets: real credentials that OpenBao makes in a real Redis, and certificates, on leases."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from core.managers.vault_manager import VaultManager
from tests.core.managers.conftest import MakeVault
from tests.core.managers.test_vault_session import token_of
from tests.support.polling import eventually
from tools.error_handling.errors import Unavailable
from tools.local_stack import LocalStack
from tools.local_stack.openbao import POLICY, OpenBao
from tools.local_stack.redis_server import RedisServer

PATH = "database/creds/reader"
POLICY_OF_TESTS = """
path "database/creds/*" { capabilities = ["read"] }
path "pki/issue/*" { capabilities = ["update"] }
"""
Lives = Callable[..., None]


@pytest.fixture
def redis(servers: LocalStack) -> RedisServer:
    assert servers.redis is not None
    return servers.redis


@pytest.fixture
def lives(bao: OpenBao, redis: RedisServer, secrets_dir: object, servers: LocalStack, role: Callable[..., None]) -> Iterator[Lives]:
    """Say how long the credentials at PATH live: `lives(default_ttl="1s", max_ttl="2s")`."""
    client = bao.client()
    if "database/" not in client.sys.list_mounted_secrets_engines()["data"]:
        client.sys.enable_secrets_engine("database")
    known = {"host": "127.0.0.1", "port": redis.port, "username": "default", "password": servers.secrets["redis_password"]}
    client.write_data("database/config/redis", data={"plugin_name": "valkey-database-plugin", "allowed_roles": "*", "tls": False, **known})
    client.sys.create_or_update_policy("leases", POLICY_OF_TESTS)
    role(token_policies=[POLICY, "leases"])

    def lives(default_ttl: str = "1h", max_ttl: str = "24h") -> None:
        made = {"db_name": "redis", "creation_statements": '["~*", "+ping"]', "default_ttl": default_ttl, "max_ttl": max_ttl}
        client.write_data("database/roles/reader", data=made)

    lives()
    yield lives
    if bao.process.running:
        if bao.client().sys.is_sealed():
            bao.unseal()
        bao.client().sys.revoke_prefix("database/creds")


def opens(redis: RedisServer, secret: dict[str, str]) -> bool:
    # By default redis-py tries a refused log-in ten times.
    once = Retry(NoBackoff(), 0)
    with Redis(port=redis.port, username=secret["username"], password=secret["password"], socket_timeout=5, retry=once) as client:
        try:
            return bool(client.ping())
        except AuthenticationError:
            return False


def lease_id_of(vault: VaultManager) -> str:
    return next(iter(vault._leases._leases.values())).id


def test_a_dynamic_secret_works_until_the_end_and_not_after_it(make: MakeVault, lives: Lives, redis: RedisServer) -> None:
    vault = make()
    secret = vault.get_dynamic_secret(PATH)
    assert opens(redis, secret)
    assert vault.get_dynamic_secret(PATH) == secret
    assert vault.health_check()["leases"] == 1
    vault.dispose()
    eventually(lambda: not opens(redis, secret), 5)


def test_a_lease_is_renewed_at_two_thirds_of_its_life(make: MakeVault, lives: Lives, bao: OpenBao, quick: None) -> None:
    lives("1s", "1h")
    vault = make()
    secret = vault.get_dynamic_secret(PATH)
    lease = lease_id_of(vault)

    def renewed() -> str | None:
        moment: str | None = bao.client().sys.read_lease(lease)["data"]["last_renewal"]
        return moment

    first = eventually(renewed, 5)
    eventually(lambda: renewed() != first, 5)
    assert vault.get_dynamic_secret(PATH) == secret


def test_one_that_cannot_be_renewed_further_is_replaced_before_it_ends(
    make: MakeVault, lives: Lives, redis: RedisServer, quick: None
) -> None:
    lives("1s", "2s")
    vault = make()
    secret = vault.get_dynamic_secret(PATH)
    after = eventually(lambda: (now := vault.get_dynamic_secret(PATH)) != secret and now, 5)
    assert isinstance(after, dict)
    assert opens(redis, after)


def test_what_was_leased_under_a_former_token_is_replaced(
    make: MakeVault, lives: Lives, redis: RedisServer, bao: OpenBao, quick: None
) -> None:
    vault = make()
    secret = vault.get_dynamic_secret(PATH)
    # With a token its leases end.
    bao.client().auth.token.revoke(token_of(vault))
    assert vault.get_secret("never-read", "one") is None
    eventually(lambda: vault.get_dynamic_secret(PATH) != secret, 5)
    assert opens(redis, vault.get_dynamic_secret(PATH))


def test_while_vault_is_away_a_lease_is_good_until_its_end(make: MakeVault, lives: Lives, bao: OpenBao, quick: None) -> None:
    lives("2s", "1h")
    vault = make()
    secret = vault.get_dynamic_secret(PATH)
    bao.seal()
    assert vault.get_dynamic_secret(PATH) == secret
    with pytest.raises(Unavailable):
        eventually(lambda: vault.get_dynamic_secret(PATH) != secret, 5)
    bao.unseal()
    assert vault.get_dynamic_secret(PATH) != secret


def test_parameters_are_written_and_what_is_not_renewable_is_replaced(make: MakeVault, lives: Lives, bao: OpenBao, quick: None) -> None:
    client = bao.client()
    if "pki/" not in client.sys.list_mounted_secrets_engines()["data"]:
        client.sys.enable_secrets_engine("pki")
        client.write_data("pki/root/generate/internal", data={"common_name": "test", "key_type": "ec"})
    made = {"allow_any_name": True, "generate_lease": True, "key_type": "ec", "ttl": "2s", "not_before_duration": "0s"}
    client.write_data("pki/roles/short", data=made)
    vault = make()
    first = vault.get_dynamic_secret("pki/issue/short", common_name="one.example")
    other = vault.get_dynamic_secret("pki/issue/short", common_name="other.example")
    assert first["certificate"] != other["certificate"]
    eventually(lambda: vault.get_dynamic_secret("pki/issue/short", common_name="one.example") != first, 5)


def test_what_there_is_no_lease_for_is_said(make: MakeVault, lives: Lives, bao: OpenBao) -> None:
    bao.client().secrets.kv.v2.create_or_update_secret("credit-system/plain", secret={"one": "1"})
    vault = make()
    with pytest.raises(ValueError, match="no lease"):
        vault.get_dynamic_secret("secret/data/credit-system/plain")
    with pytest.raises(KeyError):
        vault.get_dynamic_secret("secret/data/credit-system/nowhere")
    with pytest.raises(Unavailable):
        vault.get_dynamic_secret("database/config/redis")


def test_without_vault_there_are_none(app_manager_factory: Callable[..., object]) -> None:
    with pytest.raises(Unavailable):
        app_manager_factory("vault").vault_manager.get_dynamic_secret(PATH)  # type: ignore[attr-defined]

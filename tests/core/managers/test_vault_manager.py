"""Vault, against a real OpenBao: log-in, secrets, and the last good ones while it is away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.managers import vault_manager
from core.managers.base import BootError
from core.managers.vault_manager import VaultManager
from tests.core.conftest import Factory
from tests.support.in_process import booted
from tools.error_handling.errors import Unavailable
from tools.local_stack import LocalStack
from tools.local_stack.openbao import POLICY, ROLE, OpenBao
from utils.config.config import load_config


@pytest.fixture(scope="module")
def stack(servers: LocalStack, secrets_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """An OpenBao beside the MongoDB and Redis of the other tests, with the same secrets."""
    folder = tmp_path_factory.mktemp("vault")
    shutil.copytree(secrets_dir, folder / "secrets")
    theirs = {"mongodb_uri": servers.environ["MONGODB_URI"], "redis_url": servers.environ["REDIS_URL"]}
    with LocalStack(folder / "data", folder / "secrets", vault=True, **theirs) as running:
        yield running


@pytest.fixture
def bao(stack: LocalStack) -> Iterator[OpenBao]:
    """It may be sealed, killed and written to; afterwards it is as it was."""
    assert stack.openbao is not None
    yield stack.openbao
    if not stack.openbao.process.running:
        stack.openbao.start()
    if stack.openbao.client().sys.is_sealed():
        stack.openbao.unseal()


@pytest.fixture
def make(stack: LocalStack, app_manager_factory: Factory) -> Callable[..., VaultManager]:
    """A manager that has logged in."""

    def make(**settings: object) -> VaultManager:
        own = {"VAULT_ADDR": stack.environ["VAULT_ADDR"], "SECRETS_DIR": stack.environ["SECRETS_DIR"], **settings}
        manager: VaultManager = app_manager_factory("vault", **own).vault_manager
        return manager

    return make


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every secret is due to be read again."""
    monkeypatch.setattr(vault_manager, "_CACHE_SECONDS", 0)


def write(bao: OpenBao, path: str, **values: str) -> None:
    bao.client().secrets.kv.v2.create_or_update_secret(f"credit-system/{path}", secret=values)


def test_the_usage_of_the_managers_overview_works(make: Callable[..., VaultManager], bao: OpenBao) -> None:
    write(bao, "external_service", api_key="abc", url="https://example.com")
    vault = make()
    assert vault.enabled
    assert vault.get_secret("external_service", "api_key") == "abc"
    assert vault.get_all_secrets("external_service") == {"api_key": "abc", "url": "https://example.com"}


def test_what_does_not_exist_is_none(make: Callable[..., VaultManager], bao: OpenBao) -> None:
    vault = make()
    write(bao, "something", one="1")
    assert vault.get_secret("nowhere", "key") is None
    assert vault.get_secret("something", "two") is None
    assert vault.get_all_secrets("nowhere") == {}


def test_a_deleted_secret_is_gone(make: Callable[..., VaultManager], bao: OpenBao) -> None:
    write(bao, "deleted", one="1")
    bao.client().secrets.kv.v2.delete_latest_version_of_secret("credit-system/deleted")
    assert make().get_all_secrets("deleted") == {}


def test_the_settings_come_from_it_and_win(make: Callable[..., VaultManager], stack: LocalStack) -> None:
    settings = make().settings()
    assert settings == stack.secrets.for_vault()
    config = load_config(settings, {**stack.environ})
    assert config.origin("JWT_SECRET") == "vault"


def test_callers_get_copies(make: Callable[..., VaultManager], bao: OpenBao) -> None:
    write(bao, "copied", one="1")
    vault = make()
    vault.get_all_secrets("copied")["one"] = "changed"
    assert vault.get_secret("copied", "one") == "1"


def test_values_are_cached_and_read_again_when_they_are_old(
    make: Callable[..., VaultManager], bao: OpenBao, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(bao, "rotated", password="old")
    vault = make()
    assert vault.get_secret("rotated", "password") == "old"
    write(bao, "rotated", password="new")
    assert vault.get_secret("rotated", "password") == "old"
    monkeypatch.setattr(vault_manager, "_CACHE_SECONDS", 0)
    assert vault.get_secret("rotated", "password") == "new"


# Log-in


@pytest.mark.parametrize("name", ["vault_role_id", "vault_secret_id"])
def test_wrong_credentials_stop_the_boot_and_are_not_shown(
    name: str, make: Callable[..., VaultManager], stack: LocalStack, tmp_path: Path
) -> None:
    folder = shutil.copytree(stack.environ["SECRETS_DIR"], tmp_path / "secrets")
    (folder / name).write_text("wrong-and-hidden")
    with pytest.raises(BootError, match=r"AppRole log-in refused .vault_role_id, vault_secret_id.") as refusal:
        make(SECRETS_DIR=folder)
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://nowhere.invalid"])
def test_a_vault_that_does_not_answer_stops_the_boot_by_name(address: str, make: Callable[..., VaultManager]) -> None:
    with pytest.raises(BootError, match=f"vault at {address}: does not answer"):
        make(VAULT_ADDR=address, VAULT_TIMEOUT=0.5)


def test_a_sealed_vault_stops_the_boot_by_name(make: Callable[..., VaultManager], bao: OpenBao) -> None:
    bao.seal()
    with pytest.raises(BootError, match=r"vault at .*: VaultDown"):
        make()


def test_a_place_that_we_may_not_read_stops_the_boot_by_name(make: Callable[..., VaultManager]) -> None:
    vault = make(VAULT_PATH="elsewhere")
    with pytest.raises(BootError, match="cannot read secret/elsewhere/app"):
        vault.settings()


def test_a_token_that_has_expired_is_replaced(make: Callable[..., VaultManager], bao: OpenBao, no_cache: None) -> None:
    write(bao, "long-lived", one="1")
    approle = bao.client().auth.approle
    approle.create_or_update_approle(ROLE, token_policies=[POLICY], token_ttl="1s", token_max_ttl="1s")
    try:
        vault = make()
        time.sleep(1.5)
        assert vault.get_secret("long-lived", "one") == "1"
        assert vault.get_all_secrets("never-read-before") == {}
    finally:
        approle.create_or_update_approle(ROLE, token_policies=[POLICY], token_ttl="1h", token_max_ttl="24h")


# While it is away


def test_while_it_is_sealed_the_last_good_values_are_served(make: Callable[..., VaultManager], bao: OpenBao, no_cache: None) -> None:
    write(bao, "kept", one="1")
    vault = make()
    assert vault.get_secret("kept", "one") == "1"
    assert vault.health_check()["status"] == "healthy"
    bao.seal()
    assert vault.get_secret("kept", "one") == "1"
    with pytest.raises(Unavailable):
        vault.get_secret("never-read", "one")
    assert (vault.health_check()["status"], vault.health_check()["sealed"]) == ("degraded", True)
    bao.unseal()
    assert vault.get_secret("never-read", "one") is None
    assert vault.health_check()["status"] == "healthy"


def test_while_it_is_dead_the_last_good_values_are_served_and_then_it_is_found_again(
    make: Callable[..., VaultManager], bao: OpenBao, no_cache: None
) -> None:
    write(bao, "kept", one="1")
    vault = make()
    assert vault.get_secret("kept", "one") == "1"
    bao.kill()
    assert vault.get_secret("kept", "one") == "1"
    assert vault.health_check()["status"] == "degraded"
    bao.start()
    # It remembers nothing, our token included.
    write(bao, "kept", one="2")
    assert vault.get_secret("kept", "one") == "2"


def test_while_it_hangs_a_call_takes_no_longer_than_its_time_out(make: Callable[..., VaultManager], bao: OpenBao, no_cache: None) -> None:
    vault = make(VAULT_TIMEOUT=0.3)
    vault.settings()
    bao.pause()
    try:
        began = time.monotonic()
        assert vault.settings()
        assert vault.health_check()["status"] == "degraded"
        assert time.monotonic() - began < 1.5
    finally:
        bao.resume()


def test_without_an_address_it_stands_aside(app_manager_factory: Factory) -> None:
    vault: VaultManager = app_manager_factory("vault").vault_manager
    assert not vault.enabled
    assert vault.settings() == {}
    assert vault.get_secret("any", "key") is None
    assert vault.health_check()["status"] == "healthy"
    assert vault.health_check()["enabled"] is False


def test_the_token_of_the_machine_is_never_used(make: Callable[..., VaultManager], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "somebody else's")
    monkeypatch.setenv("VAULT_NAMESPACE", "elsewhere")
    assert make().settings()


def test_health_shows_no_secret(make: Callable[..., VaultManager], stack: LocalStack) -> None:
    shown = str(make().health_check())
    assert not [value for value in stack.secrets.for_vault().values() if value in shown]


def test_the_application_boots_on_secrets_that_only_vault_has(stack: LocalStack, tmp_path: Path) -> None:
    for name in ("vault_role_id", "vault_secret_id"):
        shutil.copy(stack.secrets.directory / name, tmp_path / name)
    with booted({**stack.environ, "SECRETS_DIR": str(tmp_path)}, tmp_path) as app_manager:
        assert app_manager.config.origin("JWT_SECRET") == app_manager.config.origin("MONGODB_PASSWORD") == "vault"
        assert app_manager.health()["managers"]["vault"]["enabled"] is True

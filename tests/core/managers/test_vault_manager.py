"""Vault, against a real OpenBao: log-in, secrets, and the last good ones while it is away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from core.managers.base import BootError
from core.managers.vault_manager import VaultManager
from tests.core.conftest import Factory
from tests.core.managers.conftest import MakeVault
from tests.support.at_once import at_once
from tests.support.in_process import booted
from tests.support.polling import eventually
from tools.error_handling.errors import Unavailable
from tools.local_stack import LocalStack
from tools.local_stack.dev_secrets import VAULT
from tools.local_stack.openbao import POLICY, OpenBao
from utils import deadline
from utils.config.config import load_config


def refresh_failures(what: str) -> float:
    return REGISTRY.get_sample_value("credit_vault_refresh_failures_total", {"what": what}) or 0.0


def write(bao: OpenBao, path: str, **values: str) -> None:
    bao.client().secrets.kv.v2.create_or_update_secret(f"credit-system/{path}", secret=values)


def test_the_usage_of_the_managers_overview_works(make: MakeVault, bao: OpenBao) -> None:
    write(bao, "external_service", api_key="abc", url="https://example.com")
    vault = make()
    assert vault.enabled
    assert vault.get_secret("external_service", "api_key") == "abc"
    assert vault.get_all_secrets("external_service") == {"api_key": "abc", "url": "https://example.com"}


def test_what_does_not_exist_is_none(make: MakeVault, bao: OpenBao) -> None:
    vault = make()
    write(bao, "something", one="1")
    assert vault.get_secret("nowhere", "key") is None
    assert vault.get_secret("something", "two") is None
    assert vault.get_all_secrets("nowhere") == {}


def test_a_deleted_secret_is_gone(make: MakeVault, bao: OpenBao) -> None:
    write(bao, "deleted", one="1")
    bao.client().secrets.kv.v2.delete_latest_version_of_secret("credit-system/deleted")
    assert make().get_all_secrets("deleted") == {}


def test_the_settings_come_from_it_and_win(make: MakeVault, stack: LocalStack) -> None:
    settings = make().settings()
    assert settings == stack.secrets.for_vault()
    config = load_config(settings, {**stack.environ})
    assert config.origin("JWT_SECRET") == "vault"


def test_callers_get_copies(make: MakeVault, bao: OpenBao) -> None:
    write(bao, "copied", one="1")
    vault = make()
    vault.get_all_secrets("copied")["one"] = "changed"
    assert vault.get_secret("copied", "one") == "1"


def test_values_are_cached_and_read_again_in_the_background(make: MakeVault, bao: OpenBao, quick: None) -> None:
    write(bao, "rotated", password="old")
    kept, fresh = make(), make(VAULT_CACHE_TTL=0.2)
    assert kept.get_secret("rotated", "password") == fresh.get_secret("rotated", "password") == "old"
    write(bao, "rotated", password="new")
    eventually(lambda: fresh.get_secret("rotated", "password") == "new", 5)
    assert kept.get_secret("rotated", "password") == "old"
    assert kept.refresh("rotated") == {"password": "new"}
    assert kept.get_secret("rotated", "password") == "new"


def test_many_who_ask_for_the_same_are_one_read(make: MakeVault, bao: OpenBao) -> None:
    write(bao, "popular", one="1")
    vault = make()
    vault.settings()
    before = vault.check()[1]["connections"]["requests"]
    assert at_once(8, lambda _: vault.get_secret("popular", "one")) == ["1"] * 8
    assert vault.check()[1]["connections"]["requests"] == before + 2, "one read, and the second check"


@pytest.mark.parametrize("version", ["auto", "1"])
def test_version_1_of_the_engine_is_read_too(version: str, make: MakeVault, bao: OpenBao, role: Callable[..., None]) -> None:
    client = bao.client()
    if "kv1/" not in client.sys.list_mounted_secrets_engines()["data"]:
        client.sys.enable_secrets_engine("kv", path="kv1", options={"version": "1"})
    client.sys.create_or_update_policy("kv1", 'path "kv1/credit-system/*" { capabilities = ["read"] }')
    role(token_policies=[POLICY, "kv1"])
    client.secrets.kv.v1.create_or_update_secret("credit-system/external_service", {"api_key": "abc"}, mount_point="kv1")
    vault = make(VAULT_MOUNT="kv1", VAULT_KV_VERSION=version)
    assert vault.get_all_secrets("external_service") == {"api_key": "abc"}
    assert vault.get_secret("nowhere", "key") is None


def test_version_2_may_be_set_too(make: MakeVault, bao: OpenBao) -> None:
    write(bao, "external_service", api_key="abc")
    assert make(VAULT_KV_VERSION="2").get_secret("external_service", "api_key") == "abc"


# Log-in


@pytest.mark.parametrize("name", ["vault_role_id", "vault_secret_id"])
def test_wrong_credentials_stop_the_boot_and_are_not_shown(name: str, make: MakeVault, stack: LocalStack, tmp_path: Path) -> None:
    folder = shutil.copytree(stack.environ["SECRETS_DIR"], tmp_path / "secrets")
    (folder / name).write_text("wrong-and-hidden")
    with pytest.raises(BootError, match=r"AppRole log-in refused .vault_role_id, vault_secret_id.") as refusal:
        make(SECRETS_DIR=folder)
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://nowhere.invalid"])
def test_a_vault_that_does_not_answer_stops_the_boot_by_name(address: str, make: MakeVault) -> None:
    with pytest.raises(BootError, match=f"vault at {address}: does not answer"):
        make(VAULT_ADDR=address, VAULT_TIMEOUT=0.5)


def test_a_sealed_vault_stops_the_boot_by_name(make: MakeVault, bao: OpenBao) -> None:
    bao.seal()
    with pytest.raises(BootError, match=r"vault at .*: VaultDown"):
        make()


def test_a_place_that_we_may_not_read_stops_the_boot_by_name(make: MakeVault) -> None:
    vault = make(VAULT_PATH="elsewhere")
    with pytest.raises(BootError, match="cannot read secret/elsewhere/app"):
        vault.settings()


# While it is away


def test_while_it_is_sealed_the_last_good_values_are_served(make: MakeVault, bao: OpenBao, quick: None) -> None:
    write(bao, "kept", one="1")
    vault = make(VAULT_CACHE_TTL=0.1)
    assert vault.get_secret("kept", "one") == "1"
    assert vault.health_check()["status"] == "healthy"
    failures = refresh_failures("secret")
    bao.seal()
    eventually(lambda: refresh_failures("secret") > failures, 5)
    assert vault.get_secret("kept", "one") == "1"
    with pytest.raises(Unavailable):
        vault.get_secret("never-read", "one")
    with pytest.raises(Unavailable):
        vault.fresh_settings()
    health = vault.health_check()
    assert (health["status"], health["sealed"], health["critical"]) == ("degraded", True, True)
    bao.unseal()
    assert vault.get_secret("never-read", "one") is None
    eventually(lambda: vault.health_check()["status"] == "healthy", 5)


def test_what_is_older_than_the_maximum_is_no_longer_served(make: MakeVault, bao: OpenBao, quick: None) -> None:
    write(bao, "kept", one="1")
    vault = make(VAULT_CACHE_TTL=0.1, VAULT_MAX_AGE=1)
    assert vault.get_secret("kept", "one") == "1"
    bao.seal()
    eventually(lambda: vault.health_check()["status"] == "unhealthy", 10)
    with pytest.raises(Unavailable):
        eventually(lambda: not vault.get_secret("kept", "one"), 5)
    bao.unseal()
    eventually(lambda: vault.health_check()["status"] == "healthy", 10)
    assert vault.get_secret("kept", "one") == "1"


def test_a_secret_that_we_may_no_longer_read_makes_it_degraded_and_then_unhealthy(
    make: MakeVault, bao: OpenBao, role: Callable[..., None], quick: None
) -> None:
    client = bao.client()
    client.sys.create_or_update_policy("extra", 'path "secret/data/extra/*" { capabilities = ["read"] }')
    role(token_policies=["extra"])
    client.secrets.kv.v2.create_or_update_secret("extra/app", secret={"one": "1"})
    vault = make(VAULT_PATH="extra", VAULT_CACHE_TTL=0.1, VAULT_MAX_AGE=1)
    assert vault.get_secret("app", "one") == "1"
    client.sys.delete_policy("extra")
    eventually(lambda: vault.health_check()["status"] == "degraded", 5)
    assert vault.get_secret("app", "one") == "1"
    eventually(lambda: vault.health_check()["status"] == "unhealthy", 5)


def test_while_it_is_dead_the_last_good_values_are_served_and_then_it_is_found_again(make: MakeVault, bao: OpenBao, quick: None) -> None:
    write(bao, "kept", one="1")
    vault = make(VAULT_CACHE_TTL=0.1)
    assert vault.get_secret("kept", "one") == "1"
    bao.kill()
    assert vault.get_secret("kept", "one") == "1"
    assert vault.health_check()["status"] == "degraded"
    bao.start()
    # It remembers nothing, our token included.
    write(bao, "kept", one="2")
    eventually(lambda: vault.get_secret("kept", "one") == "2", 10)


def test_while_it_hangs_nobody_waits_for_longer_than_the_time_out(make: MakeVault, bao: OpenBao) -> None:
    vault = make(VAULT_TIMEOUT=1)
    vault.settings()
    bao.pause()
    try:
        began = time.monotonic()
        assert vault.settings()
        assert vault.health_check()["status"] == "degraded"
        with pytest.raises(Unavailable):
            vault.get_secret("never-read", "one")
        assert time.monotonic() - began < 10
    finally:
        bao.resume()


def test_a_call_is_cut_by_the_deadline_of_its_request(make: MakeVault, bao: OpenBao) -> None:
    vault = make(VAULT_TIMEOUT=30)
    bao.pause()
    deadline.start(0.2)
    try:
        with pytest.raises(Unavailable):
            vault.get_secret("never-read", "one")
    finally:
        deadline.clear()
        bao.resume()


def test_without_an_address_it_stands_aside(app_manager_factory: Factory) -> None:
    vault: VaultManager = app_manager_factory("vault").vault_manager
    assert not vault.enabled
    assert vault.settings() == {}
    assert vault.get_secret("any", "key") is None
    assert vault.health_check()["status"] == "healthy"
    assert vault.health_check()["enabled"] is False


def test_the_token_of_the_machine_is_never_used(make: MakeVault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "somebody else's")
    monkeypatch.setenv("VAULT_NAMESPACE", "elsewhere")
    assert make().settings()


def test_health_shows_no_secret(make: MakeVault, stack: LocalStack) -> None:
    shown = str(make().health_check())
    assert not [value for value in stack.secrets.for_vault().values() if value in shown]
    assert not [value for name in VAULT if (value := stack.secrets[name]) in shown]


def test_health_says_what_an_operator_wants_to_know(make: MakeVault) -> None:
    health = make().health_check()
    assert health["latency_ms"] > 0
    assert 3500 < health["token_ttl_seconds"] <= 3600
    assert health["connections"]["opened"] >= 1
    assert (health["enabled"], health["sealed"], health["leases"]) == (True, False, 0)


def test_the_application_boots_on_secrets_that_only_vault_has(stack: LocalStack, tmp_path: Path) -> None:
    for name in ("vault_role_id", "vault_secret_id"):
        shutil.copy(stack.secrets.directory / name, tmp_path / name)
    with booted({**stack.environ, "SECRETS_DIR": str(tmp_path)}, tmp_path) as app_manager:
        assert app_manager.config.origin("JWT_SECRET") == app_manager.config.origin("MONGODB_PASSWORD") == "vault"
        assert app_manager.health()["managers"]["vault"]["enabled"] is True

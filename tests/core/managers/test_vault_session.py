"""Our log-in to Vault: ids that work once, a token that is renewed and replaced, and one that processes share."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hvac
import pytest
from hvac.exceptions import Forbidden
from prometheus_client import REGISTRY

from core.managers.base import BootError
from core.managers.vault_handover import NAME, VaultHandover
from core.managers.vault_manager import VaultManager
from core.managers.vault_session import VaultSession
from tests.core.managers.conftest import MakeVault
from tests.support.polling import eventually
from tools.error_handling.errors import Unavailable
from tools.local_stack import LocalStack
from tools.local_stack.openbao import POLICY, ROLE, OpenBao

Role = Callable[..., None]


def session_of(vault: VaultManager) -> VaultSession:
    assert vault._session is not None
    return vault._session


def token_of(vault: VaultManager) -> str:
    token: str = session_of(vault).client.token
    return token


def known_of(bao: OpenBao, token: str) -> dict[str, Any]:
    known: dict[str, Any] = bao.client().auth.token.lookup(token)["data"]
    return known


@pytest.fixture
def ids(stack: LocalStack, bao: OpenBao, tmp_path: Path) -> Callable[..., Path]:
    """A secrets folder whose secret id is a new one of `traits`, plain or wrapped."""

    def ids(*, wrapped: bool = False, **traits: Any) -> Path:
        folder = tmp_path / "ids"
        if not folder.exists():
            shutil.copytree(stack.environ["SECRETS_DIR"], folder)
        answer = bao.client().adapter.post(
            f"/v1/auth/approle/role/{ROLE}/secret-id", json=traits, **({"wrap_ttl": "60s"} if wrapped else {})
        )
        (folder / "vault_secret_id").unlink(missing_ok=True)
        name, value = ("wrapped_secret_id", answer["wrap_info"]["token"]) if wrapped else ("secret_id", answer["data"]["secret_id"])
        (folder / f"vault_{name}").write_text(value)
        return folder

    return ids


@pytest.fixture
def memory() -> Iterator[int]:
    """What gunicorn.conf.py makes before the rehearsal."""
    descriptor = os.memfd_create(NAME)
    yield descriptor
    os.close(descriptor)


# Ids


def test_a_wrapped_secret_id_opens_vault(ids: Callable[..., Path], make: MakeVault) -> None:
    assert make(SECRETS_DIR=ids(wrapped=True)).settings()


def test_one_that_was_unwrapped_before_stops_the_boot_by_name_and_is_not_shown(ids: Callable[..., Path], make: MakeVault) -> None:
    folder = ids(wrapped=True)
    make(SECRETS_DIR=folder)
    with pytest.raises(BootError, match="vault_wrapped_secret_id was unwrapped before, or has expired") as refusal:
        make(SECRETS_DIR=folder)
    assert (folder / "vault_wrapped_secret_id").read_text() not in str(refusal.value)


def test_a_secret_id_of_one_use_does_for_all_processes_that_share_the_log_in(
    ids: Callable[..., Path], make: MakeVault, memory: int
) -> None:
    folder = ids(num_uses=1)
    rehearsal = make(SECRETS_DIR=folder, VAULT_HANDOVER_FD=memory)
    token = token_of(rehearsal)
    rehearsal.dispose()
    workers = [make(SECRETS_DIR=folder, VAULT_HANDOVER_FD=memory) for _ in range(4)]
    assert [token_of(worker) for worker in workers] == [token] * 4
    assert all(worker.settings() for worker in workers)
    with pytest.raises(BootError, match="AppRole log-in refused"):
        make(SECRETS_DIR=folder)


def test_a_wrapped_secret_id_does_for_all_processes_too(
    ids: Callable[..., Path], make: MakeVault, memory: int, role: Role, bao: OpenBao
) -> None:
    folder = ids(wrapped=True)
    make(SECRETS_DIR=folder, VAULT_HANDOVER_FD=memory).dispose()
    worker = make(SECRETS_DIR=folder, VAULT_HANDOVER_FD=memory)
    assert worker.settings()
    bao.client().auth.token.revoke(token_of(worker))
    # What was in it is known to all of them, so that any may log in again.
    assert worker.get_secret("never-read", "one") is None


def test_the_handover_holds_what_was_written_last_and_nothing_without_a_descriptor(memory: int) -> None:
    handover = VaultHandover(memory)
    assert handover.read() == {}
    handover.write(token="long" * 500)
    handover.write(token="short", secret_id="s", wrapped="w")
    assert VaultHandover(memory).read() == {"token": "short", "secret_id": "s", "wrapped": "w"}
    alone = VaultHandover(0)
    alone.write(token="nobody")
    assert alone.read() == {}


def test_a_descriptor_that_is_not_there_or_holds_something_else_is_no_handover(memory: int, tmp_path: Path) -> None:
    assert VaultHandover(9999).read() == {}
    other = tmp_path / "other"
    other.write_text("something else")
    with other.open("r+b") as file:
        VaultHandover(file.fileno()).write(token="t")
    assert other.read_text() == "something else"
    os.pwrite(memory, b"no json", 0)
    assert VaultHandover(memory).read() == {}


# The token's life


def test_the_token_is_renewed_at_two_thirds_of_its_life(make: MakeVault, bao: OpenBao, role: Role, quick: None) -> None:
    role(token_ttl="1s", token_max_ttl="1h")
    vault = make()
    token = token_of(vault)
    first = known_of(bao, token)
    eventually(lambda: known_of(bao, token)["expire_time"] > first["expire_time"], 5)
    eventually(lambda: known_of(bao, token)["last_renewal_time"] > first["creation_time"] + 1, 5)
    assert token_of(vault) == token
    assert REGISTRY.get_sample_value("credit_vault_token_ttl_seconds", {"auth": "approle"})


def test_at_its_maximum_there_is_a_new_log_in(make: MakeVault, role: Role, quick: None) -> None:
    role(token_ttl="1s", token_max_ttl="2s")
    vault = make()
    token = token_of(vault)
    eventually(lambda: token_of(vault) != token, 10)
    assert vault.get_secret("never-read", "one") is None
    assert vault.health_check()["status"] == "healthy"


def test_a_token_that_cannot_be_renewed_is_replaced_at_two_thirds(make: MakeVault, role: Role, quick: None) -> None:
    role(token_type="batch", token_ttl="2s", token_max_ttl="2s")
    vault = make()
    token = token_of(vault)
    eventually(lambda: token_of(vault) != token, 10)
    assert vault.get_secret("never-read", "one") is None


def test_a_token_that_has_ended_is_replaced_when_it_is_used(make: MakeVault, bao: OpenBao) -> None:
    vault = make()
    vault.settings()
    bao.client().auth.token.revoke(token_of(vault))
    assert vault.get_all_secrets("never-read-before") == {}


def test_many_callers_at_the_end_of_a_token_log_in_once(make: MakeVault, bao: OpenBao, ids: Callable[..., Path]) -> None:
    vault = make(SECRETS_DIR=ids(num_uses=2))
    session, callers = session_of(vault), 4
    all_refused = threading.Barrier(callers)
    bao.client().auth.token.revoke(token_of(vault))

    def look_up() -> Any:
        refusals = iter([lambda: all_refused.wait(10)])

        def request(client: hvac.Client) -> Any:
            try:
                return client.auth.token.lookup_self()["data"]["policies"]
            except Forbidden:
                next(refusals, lambda: None)()
                raise

        return session.call(request)

    with ThreadPoolExecutor(callers) as pool:
        answers = [pool.submit(look_up) for _ in range(callers)]
    assert [answer.result() for answer in answers] == [[POLICY, "default"]] * callers
    assert session.token_number == 2


def test_who_is_refused_under_a_token_that_another_has_replaced_tries_again(make: MakeVault, bao: OpenBao) -> None:
    vault = make()
    session = session_of(vault)
    bao.client().auth.token.revoke(token_of(vault))

    def request(client: hvac.Client) -> Any:
        try:
            return client.auth.token.lookup_self()["data"]
        except Forbidden:
            session.sign_in()
            raise

    assert session.call(request)["id"] == token_of(vault)
    assert session.token_number == 2


def test_what_we_may_not_do_costs_no_log_in(make: MakeVault) -> None:
    vault = make(VAULT_PATH="elsewhere")
    token = token_of(vault)
    with pytest.raises(Unavailable):
        vault.get_all_secrets("app")
    assert token_of(vault) == token
    assert vault.health_check()["status"] == "healthy"


def test_processes_that_share_a_log_in_share_the_next_one(
    make: MakeVault, memory: int, bao: OpenBao, ids: Callable[..., Path], role: Role
) -> None:
    one, other = make(VAULT_HANDOVER_FD=memory), make(VAULT_HANDOVER_FD=memory)
    bao.client().auth.token.revoke(token_of(one))
    assert one.get_secret("never-read", "one") is None
    assert other.get_secret("never-read", "one") is None
    assert token_of(one) == token_of(other)


def test_a_renewal_that_fails_is_tried_again(make: MakeVault, bao: OpenBao, role: Role, quick: None) -> None:
    role(token_ttl="3s", token_max_ttl="1h")
    vault = make()
    failures = REGISTRY.get_sample_value("credit_vault_refresh_failures_total", {"what": "token"}) or 0
    bao.seal()
    eventually(lambda: (REGISTRY.get_sample_value("credit_vault_refresh_failures_total", {"what": "token"}) or 0) > failures, 10)
    assert vault.health_check()["status"] == "degraded"
    bao.unseal()
    eventually(lambda: vault.health_check()["status"] == "healthy", 10)


def test_new_ids_are_taken_over_while_running(make: MakeVault, ids: Callable[..., Path], bao: OpenBao) -> None:
    folder = ids(num_uses=1)
    vault = make(SECRETS_DIR=folder)
    token = token_of(vault)
    assert "VAULT_SECRET_ID" in vault.live_settings
    with pytest.raises(Exception, match="invalid"):
        vault.reload()
    assert token_of(vault) == token
    ids(num_uses=1)
    secret_id = (folder / "vault_secret_id").read_text()
    config = dict(vault.app_manager.config)
    vault.app_manager.config = {**config, "VAULT_SECRET_ID": secret_id}  # type: ignore[assignment]
    vault.reload()
    assert token_of(vault) != token


def test_the_end_gives_the_token_back_unless_others_use_it(make: MakeVault, bao: OpenBao, memory: int) -> None:
    alone, shared = make(), make(VAULT_HANDOVER_FD=memory)
    tokens = token_of(alone), token_of(shared)
    alone.dispose()
    shared.dispose()
    with pytest.raises(Exception, match="bad token"):
        known_of(bao, tokens[0])
    assert known_of(bao, tokens[1])["policies"] == [POLICY, "default"]

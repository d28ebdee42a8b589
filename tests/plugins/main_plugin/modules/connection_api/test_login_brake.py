"""The brake on log-ins: felt by strangers who guess, never by the owner on a device or at an address that was there before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.contracts import fingerprint_of
from core.managers.app_manager import AppManager
from plugins.main_plugin.modules.connection_api.connection_api import ConnectionAPI
from plugins.main_plugin.modules.connection_api.login_brake import FREE_TRIES, LoginBrake
from tests.support.client import PASSWORD, unique
from tools.error_handling.errors import RateLimited

# The owner's own client of these tests; strangers come from elsewhere.
HOME, DEVICE = "192.0.2.1", {"X-Client-Fingerprint": "my phone"}


@pytest.fixture
def http(application: AppManager) -> FlaskClient:
    assert application.app is not None
    return application.app.test_client()


@pytest.fixture
def owner(http: FlaskClient) -> dict[str, Any]:
    """A user who has registered on a device at home."""
    name = unique("owner")
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    answer = http.post("/auth/register", json=body, headers=DEVICE, environ_overrides={"REMOTE_ADDR": HOME})
    assert answer.status_code == 201
    user: dict[str, Any] = answer.get_json()["user"]
    return user


def log_in(http: FlaskClient, login: str, password: str, address: str, headers: dict[str, str] | None = None) -> TestResponse:
    body = {"login": login, "password": password}
    return http.post("/auth/login", json=body, headers=headers or {}, environ_overrides={"REMOTE_ADDR": address})


def guess(http: FlaskClient, login: str, times: int, address: str = "198.51.100.{}") -> list[TestResponse]:
    """Wrong passwords, each from another address where `address` has a place for a number."""
    return [log_in(http, login, "not the passphrase", address.format(i % 250)) for i in range(times)]


def test_guesses_from_many_addresses_are_braked_after_ten(http: FlaskClient, owner: dict[str, Any]) -> None:
    answers = guess(http, owner["username"], FREE_TRIES + 3)
    assert [answer.status_code for answer in answers] == [401] * FREE_TRIES + [429] * 3
    last = answers[-1]
    assert last.get_json()["code"] == "rate-limited"
    assert 1 <= int(last.headers["Retry-After"]) <= 4


def test_even_the_right_password_is_not_tried_for_a_stranger_then(http: FlaskClient, owner: dict[str, Any]) -> None:
    guess(http, owner["username"], FREE_TRIES)
    assert log_in(http, owner["username"], PASSWORD, "203.0.113.9").status_code == 429


def test_the_owner_gets_in_by_a_known_device_or_from_a_known_address(http: FlaskClient, owner: dict[str, Any]) -> None:
    guess(http, owner["username"], FREE_TRIES + 1)
    assert log_in(http, owner["username"], PASSWORD, "203.0.113.9", DEVICE).status_code == 200
    assert log_in(http, owner["username"], PASSWORD, HOME).status_code == 200
    # From where the device has just signed in, everything else may as well.
    assert log_in(http, owner["username"], PASSWORD, "203.0.113.9").status_code == 200


def test_a_neighbour_behind_the_same_address_does_not_brake_the_device(http: FlaskClient, owner: dict[str, Any]) -> None:
    assert [answer.status_code for answer in guess(http, owner["username"], FREE_TRIES + 1, HOME)][-1] == 429
    assert log_in(http, owner["username"], PASSWORD, HOME).status_code == 429
    assert log_in(http, owner["username"], PASSWORD, HOME, DEVICE).status_code == 200


def test_an_unknown_account_is_braked_in_the_same_way(http: FlaskClient, owner: dict[str, Any]) -> None:
    def bodies(login: str) -> list[dict[str, Any]]:
        answers = guess(http, login, FREE_TRIES + 2)
        return [{**answer.get_json(), "request_id": "", "length": len(answer.data)} for answer in answers]

    assert bodies(owner["username"]) == bodies(unique("nobody"))
    assert bodies(owner["email"]) == bodies(f"{unique('nobody')}@example.com")


def test_every_spelling_of_a_name_is_one_name(http: FlaskClient, owner: dict[str, Any]) -> None:
    name = owner["username"]
    for login in (name, name.upper(), name.title()) * 4:
        last = log_in(http, login, "not the passphrase", "198.51.100.7")
    assert last.status_code == 429


def test_log_ins_that_work_brake_nobody(http: FlaskClient, owner: dict[str, Any]) -> None:
    for i in range(FREE_TRIES + 3):
        assert log_in(http, owner["username"], PASSWORD, f"203.0.113.{i}").status_code == 200


def test_each_further_failure_brakes_for_twice_as_long_up_to_five_minutes(api: ConnectionAPI, application: AppManager) -> None:
    brake, login, waits = api.sessions._brake, unique("login"), []
    for _ in range(FREE_TRIES + 10):
        bucket = brake.count(login, None, "", HOME)
        waits.append(application.redis_manager.run_script("return redis.call('TTL', KEYS[1])", [f"login_brake:{bucket}"], []))
        application.redis_manager.delete(f"login_brake:{bucket}")
    assert waits[: FREE_TRIES - 1] == [-2] * (FREE_TRIES - 1)
    assert waits[FREE_TRIES - 1 :] == [4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300]


def test_what_is_familiar_is_bounded_hashed_and_goes_with_the_account(api: ConnectionAPI, http: FlaskClient, owner: dict[str, Any]) -> None:
    for i in range(25):
        assert log_in(http, owner["username"], PASSWORD, f"203.0.113.{i}").status_code == 200
    stored = api._repository.find_user(owner["id"])
    assert stored is not None
    assert len(stored["familiar"]) == len(set(stored["familiar"])) == 20
    assert "203.0.113" not in str(stored["familiar"])
    api.delete_user(owner["id"])
    assert "familiar" not in (api._repository.find_user(owner["id"]) or {})


@pytest.mark.parametrize("device", ["my phone", ""], ids=["device", "address"])
def test_whoever_is_familiar_stays_so_when_the_key_is_exchanged(application: AppManager, device: str) -> None:
    old, new = b"o" * 32, b"n" * 32
    login = unique("owner")

    def brake(*keys: bytes) -> LoginBrake:
        return LoginBrake(application.redis_manager, lambda: keys)

    def is_braked(worker: LoginBrake, familiar: Sequence[str]) -> bool:
        try:
            worker.count(login, {"familiar": familiar}, device, HOME)
        except RateLimited:
            return True
        return False

    familiar = brake(old).with_marks((), device, HOME)
    promoted = brake(new, old)
    # Strangers have used up the account's tries.
    assert [is_braked(promoted, ()) for _ in range(FREE_TRIES + 1)][-1]
    assert not is_braked(promoted, familiar)
    renewed = promoted.with_marks(familiar, device, HOME)
    assert len(renewed) == len(familiar)
    assert not is_braked(brake(new), renewed)
    assert is_braked(brake(new), familiar)


def test_a_new_key_that_a_running_worker_takes_over_makes_no_stranger_of_the_owner(
    http: FlaskClient, owner: dict[str, Any], api: ConnectionAPI, application: AppManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    encryption = application.encryption_manager
    monkeypatch.setattr(encryption, "_ring", type(encryption._ring)([b"n" * 32, *encryption._ring.masters]))
    guess(http, owner["username"], FREE_TRIES + 1)
    assert log_in(http, owner["username"], PASSWORD, "203.0.113.9", DEVICE).status_code == 200
    stored = api._repository.find_user(owner["id"])
    assert stored is not None
    newest = LoginBrake(application.redis_manager, lambda: encryption.derive_keys("login-brake")[:1])
    assert stored["familiar"][:2] == newest.with_marks((), fingerprint_of("my phone"), "203.0.113.9")

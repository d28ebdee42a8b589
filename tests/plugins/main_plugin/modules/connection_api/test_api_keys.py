"""API keys on the way of a request: what they cost there, whom they are counted for, and what holds while Redis is away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from core.contracts import Identifier
from core.managers.app_manager import AppManager
from core.web.routing import ADMIN, Principal
from plugins.main_plugin.modules.connection_api import api_keys
from plugins.main_plugin.modules.connection_api.connection_api import ConnectionAPI
from plugins.main_plugin.modules.connection_api.key_format import make_key
from plugins.main_plugin.modules.connection_api.schemas import UserPatch
from tests.support.client import PASSWORD, unique
from tests.support.in_process import booted
from tools.local_stack import LocalStack
from tools.local_stack.dev_secrets import SecretFiles
from tools.local_stack.redis_server import RedisServer
from utils.ids import new_id

OURSELVES = Principal("system", ADMIN, "")


@pytest.fixture
def http(application: AppManager) -> FlaskClient:
    assert application.app is not None
    return application.app.test_client()


@pytest.fixture
def token(api: ConnectionAPI) -> str:
    return signed_in(api)


def signed_in(api: ConnectionAPI) -> str:
    """The access token of a new user."""
    name = unique("user")
    user = api.create_user(name, f"{name}@example.com", PASSWORD)
    access_token: str = api.create_session(user["id"])["access_token"]
    return access_token


def new_key(http: FlaskClient, token: str, **fields: Any) -> dict[str, Any]:
    body = {"name": "n", "scopes": ["users:read"], **fields}
    answer = http.post("/auth/api-keys", json=body, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.get_json()
    return made


def flag_of(application: AppManager, name: str) -> bytes | None:
    flag: bytes | None = application.redis_manager.run_script("return redis.call('GET', KEYS[1])", [f"session:{name}"], [])
    return flag


def use(http: FlaskClient, key: str) -> int:
    return http.get("/auth/me", headers={"X-API-Key": key}).status_code


@pytest.fixture
def round_trips(application: AppManager, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often Redis and MongoDB were asked."""
    counts = {"redis": 0, "mongodb": 0}

    def counted(store: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **options: Any) -> Any:
            counts[store] += 1
            return call(*args, **options)

        return count

    monkeypatch.setattr(application.redis_manager, "guard", counted("redis", application.redis_manager.guard))
    monkeypatch.setattr(application.database_manager, "find_one", counted("mongodb", application.database_manager.find_one))
    return counts


def test_a_request_with_a_known_key_costs_what_one_with_a_token_costs(
    application: AppManager, http: FlaskClient, token: str, round_trips: dict[str, int]
) -> None:
    key = new_key(http, token)["key"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert use(http, key) == 200
    for headers in (bearer, {"X-API-Key": key}):
        assert http.get("/auth/me", headers=headers).status_code == 200
        round_trips.update(redis=0, mongodb=0)
        assert http.get("/auth/me", headers=headers).status_code == 200
        # MongoDB: the user that is shown.
        assert round_trips == {"redis": 1, "mongodb": 1}


def test_a_typing_error_costs_the_count_of_the_address_and_nothing_else(http: FlaskClient, round_trips: dict[str, int]) -> None:
    key = make_key(new_id("k"))
    for bad in (key[:-1] + "é", key[:-1] + ("1" if key[-1] == "0" else "0")):
        round_trips.update(redis=0, mongodb=0)
        assert http.get("/auth/me", headers={"X-API-Key": bad.encode().decode("latin-1")}).status_code == 401
        assert round_trips == {"redis": 1, "mongodb": 0}


def test_an_unknown_id_and_a_wrong_secret_cost_the_same(http: FlaskClient, token: str, round_trips: dict[str, int]) -> None:
    known_id = new_key(http, token)["id"]
    costs = []
    for key_id in (known_id, new_id("k")):
        round_trips.update(redis=0, mongodb=0)
        assert use(http, make_key(key_id)) == 401
        costs.append(dict(round_trips))
    assert costs[0] == costs[1] == {"redis": 1, "mongodb": 1}


def test_requests_are_counted_for_the_address_the_user_and_the_key(
    application: AppManager, http: FlaskClient, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Identifier]] = []
    limiter = application.rate_limiter_manager
    check = limiter.check_rate_limit

    def watched(identifiers: list[Identifier], *args: Any) -> Any:
        seen.append(list(identifiers))
        return check(identifiers, *args)

    made = new_key(http, token)
    user_id = application.jwt_manager.validate_token(token)["sub"]
    monkeypatch.setattr(limiter, "check_rate_limit", watched)
    everyone = [Identifier("ip", "127.0.0.1"), Identifier("user", user_id), Identifier("api_key", made["id"])]
    for _ in range(2):
        assert use(http, made["key"]) == 200
    # The first time nobody knew yet whose it is.
    assert seen == [everyone[:1], everyone[1:], everyone]
    seen.clear()
    assert use(http, make_key(made["id"])) == 401
    assert seen == [everyone[:1]], "whoever guesses, is not counted against the owner"
    application.module_manager.get_module("connection_api").users.change(OURSELVES, user_id, UserPatch(role="service"))
    seen.clear()
    for _ in range(2):
        assert use(http, made["key"]) == 200
    # Of a flag that has ended only the address is counted, until the record has said who it is.
    assert seen == [everyone, everyone[1:], everyone]


def test_a_banned_key_is_refused_and_its_owner_is_not(application: AppManager, http: FlaskClient, token: str) -> None:
    made = new_key(http, token)
    assert use(http, made["key"]) == 200
    name = application.redis_manager.pseudonym(f"api_key:{made['id']}")
    application.redis_manager.run_script("redis.call('SET', KEYS[1], '1', 'EX', 60)", [f"banned:api_key:{name}"], [])
    answer = http.get("/auth/me", headers={"X-API-Key": made["key"]})
    assert (answer.status_code, answer.get_json()["code"]) == (403, "banned")
    assert http.get("/auth/me", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    application.rate_limiter_manager.unban(Identifier("api_key", made["id"]))
    assert use(http, made["key"]) == 200


def test_what_is_remembered_is_bounded_and_forgetting_it_harms_nobody(
    api: ConnectionAPI, http: FlaskClient, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "_REMEMBERED_MAX", 2)
    keys = [new_key(http, token)["key"] for _ in range(5)]
    for key in keys * 2:
        assert use(http, key) == 200
        assert len(api.api_keys._known) <= 2
    for digest in api.api_keys._known:
        assert not any(key.encode() in digest for key in keys), "keys themselves are not kept"


def test_a_flag_that_is_gone_is_set_again_from_the_record(application: AppManager, http: FlaskClient, token: str) -> None:
    made = new_key(http, token)
    assert use(http, made["key"]) == 200
    flag = f"{made['id']}.0"
    assert flag_of(application, flag) == b"1"
    application.redis_manager.delete(f"session:{flag}")
    assert use(http, made["key"]) == 200
    assert flag_of(application, flag) == b"1"


def test_a_flag_never_speaks_louder_than_the_record(application: AppManager, http: FlaskClient, token: str) -> None:
    """As when one worker looks a key up while another revokes it."""
    made = new_key(http, token)
    assert use(http, made["key"]) == 200
    assert http.delete(f"/auth/api-keys/{made['id']}", headers={"Authorization": f"Bearer {token}"}).status_code == 204
    application.jwt_manager.leave_flag(f"{made['id']}.0")
    assert flag_of(application, f"{made['id']}.0") == b"0"
    assert use(http, made["key"]) == 401


def test_the_last_uses_are_written_together_and_by_one_worker_only(api: ConnectionAPI, http: FlaskClient, token: str) -> None:
    made = [new_key(http, token) for _ in range(2)]
    for key in made:
        assert use(http, key["key"]) == 200
    api.api_keys.uses.flush()
    bearer = {"Authorization": f"Bearer {token}"}
    noted = [row["last_used_at"] for row in http.get("/auth/api-keys", headers=bearer).get_json()["data"]]
    assert all(noted)
    # Another worker, that has seen the same keys a moment later.
    later = api_keys.ApiKeys(api.api_keys._repository, api._repository, api._jwt, api.api_keys._pager, frozenset)
    for key in made:
        later.uses.note(key["id"])
    later.uses.flush()
    assert [row["last_used_at"] for row in http.get("/auth/api-keys", headers=bearer).get_json()["data"]] == noted


def test_while_redis_is_away_keys_work_and_revoked_ones_do_not(servers: LocalStack, secrets_dir: Path, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis", SecretFiles(secrets_dir))
    (tmp_path / "redis").mkdir()
    redis.start()
    try:
        with booted({**servers.environ, "REDIS_URL": redis.url}, tmp_path / "app", RATE_LIMIT_DEGRADED_SHARE=1) as manager:
            assert manager.app is not None
            http = manager.app.test_client()
            token = signed_in(manager.module_manager.get_module("connection_api"))
            kept, revoked = new_key(http, token), new_key(http, token)
            assert use(http, kept["key"]) == use(http, revoked["key"]) == 200
            redis.stop()
            assert use(http, kept["key"]) == 200
            assert http.delete(f"/auth/api-keys/{revoked['id']}", headers={"Authorization": f"Bearer {token}"}).status_code == 204
            assert use(http, revoked["key"]) == 401
            assert use(http, kept["key"]) == 200
    finally:
        redis.stop()

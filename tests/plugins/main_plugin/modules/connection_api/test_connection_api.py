"""The ConnectionAPI as other modules use it: what the overview promises of it, line by line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from pymongo.database import Database
from redis import Redis

from core.contracts import fingerprint_of
from core.managers.app_manager import AppManager
from plugins.main_plugin.modules.connection_api.connection_api import ConnectionAPI
from tests.support.client import PASSWORD, unique
from tools.error_handling.errors import AppError, Conflict, Forbidden, NotFound, Unauthenticated, Unprocessable
from utils.collections import load_collections

Row = dict[str, Any]


@pytest.fixture
def user(api: ConnectionAPI) -> Row:
    return new_user(api)


@pytest.fixture
def http(application: AppManager) -> FlaskClient:
    assert application.app is not None
    return application.app.test_client()


def new_user(api: ConnectionAPI, **fields: str) -> Row:
    name = unique("user")
    return api.create_user(**{"username": name, "email": f"{name}@example.com", "password": PASSWORD, **fields})


def refused(kind: type[AppError], code: str, call: Any, *args: Any, **options: Any) -> AppError:
    with pytest.raises(kind) as refusal:
        call(*args, **options)
    assert refusal.value.code == code
    return refusal.value


# "On initialization, sets up DB managers (read/write, read-only, admin), Redis, JWT, and error handler."


def test_on_initialization_it_has_all_three_database_roles_redis_jwt_and_the_error_handler(
    application: AppManager, api: ConnectionAPI, user: Row, http: FlaskClient
) -> None:
    roles = application.database_manager._roles
    assert set(roles) == {"read_write", "read_only", "admin"}
    for role, held in roles.items():
        assert held.client.options.pool_options.appname == f"credit-system-{role}"
    assert api.execute_query("users_public", {"_id": user["id"]})[0]["role"] == "user"
    tokens = api.create_session(user["id"])
    assert application.jwt_manager.is_token_valid(tokens["access_token"])
    flag = f"session:{tokens['session_id']}"
    assert not application.redis_manager.exists(flag)
    assert api.is_session_active(tokens["session_id"])
    assert application.redis_manager.exists(flag)
    before = application.error_handler.frequency("unauthenticated")
    assert http.get("/auth/me").status_code == 401
    assert application.error_handler.frequency("unauthenticated") == before + 1


# "Ensures required collections and indexes exist in MongoDB."


def test_it_ensures_that_its_collections_and_indexes_exist(application: AppManager, database: Database[Row]) -> None:
    listed = load_collections()["collections"]
    database["api_keys"].drop_index("of_user_by_age")
    application.prepare()
    for name in ("users", "user_sessions", "api_keys"):
        assert set(database[name].index_information()) == {"_id_", *(index["name"] for index in listed[name]["indexes"])}
        assert listed[name]["private"] is True


# "User CRUD (create, get, delete)."


def test_users_are_created_got_and_deleted(api: ConnectionAPI, user: Row) -> None:
    assert set(user) == {"id", "username", "email", "role", "status", "created_at"}
    assert api.get_user(user["id"]) == user
    api.delete_user(user["id"])
    gone = api.get_user(user["id"])
    assert (gone["username"], gone["email"], gone["status"]) == (None, None, "deleted")
    refused(NotFound, "not-found", api.delete_user, user["id"])
    refused(NotFound, "not-found", api.get_user, "u_nobody")


def test_a_user_made_by_a_module_has_a_wallet_and_can_sign_in(api: ConnectionAPI, http: FlaskClient) -> None:
    user = new_user(api, role="service")
    signed_in = http.post("/auth/login", json={"login": user["username"], "password": PASSWORD}).get_json()
    assert signed_in["user"] == user
    headers = {"Authorization": f"Bearer {signed_in['access_token']}"}
    assert http.get("/wallets/me", headers=headers).get_json()["owner_id"] == user["id"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("username", "a b"), ("email", "nobody"), ("password", "short"), ("password", "aaaaaaaaaaaa"), ("role", "king"), ("email", None)],
)
def test_the_rules_for_accounts_hold_for_modules_too(api: ConnectionAPI, field: str, value: Any) -> None:
    error = refused(Unprocessable, "validation-failed", new_user, api, **{field: value})
    assert [entry["field"] for entry in error.extra["errors"]] == [field]


def test_a_taken_name_is_a_conflict(api: ConnectionAPI, user: Row) -> None:
    refused(Conflict, "username-taken", new_user, api, username=user["username"].upper())
    refused(Conflict, "email-taken", new_user, api, email=user["email"].upper())


# "Session management (create, remove, check active)."


def test_sessions_are_created_checked_and_removed(api: ConnectionAPI, user: Row) -> None:
    first, second = (api.create_session(user["id"], user_agent="a kiosk")["session_id"] for _ in range(2))
    assert api.is_session_active(first)
    assert api.check_active_sessions([first, second, "s_unknown"]) == {first, second}
    api.remove_session(first)
    assert not api.is_session_active(first)
    assert api.check_active_sessions([first, second]) == {second}
    api.remove_session(first)
    assert api.check_active_sessions([]) == set()


def test_only_an_active_user_gets_a_session(api: ConnectionAPI, user: Row) -> None:
    refused(NotFound, "not-found", api.create_session, "u_nobody")
    session_id = api.create_session(user["id"])["session_id"]
    api.delete_user(user["id"])
    assert not api.is_session_active(session_id)
    refused(NotFound, "not-found", api.create_session, user["id"])


# "Token management (create, validate, refresh, revoke)."


def test_tokens_are_created_validated_refreshed_and_revoked(api: ConnectionAPI, user: Row, http: FlaskClient) -> None:
    session = api.create_session(user["id"])
    made = api.create_tokens(session["session_id"])
    assert set(made) == {"session_id", "user", "access_token", "refresh_token", "token_type", "expires_in"}
    claims = api.validate_token(made["access_token"])
    assert (claims["sub"], claims["sid"], claims["role"]) == (user["id"], session["session_id"], "user")
    renewed = api.refresh_token(made["refresh_token"])
    assert api.validate_token(renewed["access_token"])["sid"] == session["session_id"]
    assert http.get("/auth/me", headers={"Authorization": f"Bearer {renewed['access_token']}"}).get_json() == user
    api.revoke_token(renewed["access_token"])
    for token in (session["access_token"], made["access_token"], renewed["access_token"]):
        refused(Unauthenticated, "session-revoked", api.validate_token, token)
    refused(Unauthenticated, "session-revoked", api.refresh_token, renewed["refresh_token"])
    refused(Unauthenticated, "session-revoked", api.create_tokens, session["session_id"])


def test_a_refresh_token_revokes_as_well(api: ConnectionAPI, user: Row) -> None:
    session = api.create_session(user["id"])
    api.revoke_token(session["refresh_token"])
    refused(Unauthenticated, "session-revoked", api.validate_token, session["access_token"])
    refused(Unauthenticated, "token-invalid", api.revoke_token, "garbage")


def test_new_tokens_spend_the_refresh_token_before_them(api: ConnectionAPI, user: Row) -> None:
    session = api.create_session(user["id"])
    api.create_tokens(session["session_id"])
    refused(Unauthenticated, "refresh-reused", api.refresh_token, session["refresh_token"])
    refused(Unauthenticated, "session-revoked", api.create_tokens, session["session_id"])


def test_tokens_made_for_a_client_belong_to_it(api: ConnectionAPI, user: Row) -> None:
    mine, theirs = fingerprint_of("mine"), fingerprint_of("theirs")
    session = api.create_session(user["id"], fingerprint=mine)
    assert api.validate_token(session["access_token"], fingerprint=mine)["sub"] == user["id"]
    refused(Unauthenticated, "token-invalid", api.validate_token, session["access_token"], fingerprint=theirs)
    refused(Unauthenticated, "token-invalid", api.refresh_token, session["refresh_token"], fingerprint=theirs)
    assert api.refresh_token(session["refresh_token"], fingerprint=mine)["user"] == user


# "Query execution with Redis caching and cache invalidation."


def test_a_query_is_answered_from_the_cache_until_it_is_invalidated(api: ConnectionAPI, user: Row, database: Database[Row]) -> None:
    def wallets() -> list[Row]:
        return api.execute_query("wallets", {"owner_id": user["id"]}, ("settled", "created_at"))

    first = wallets()
    assert [set(row) for row in first] == [{"_id", "settled", "created_at"}]
    assert first[0]["created_at"].tzinfo is not None
    database["wallets"].update_one({"owner_id": user["id"]}, {"$set": {"settled": 5}})
    assert wallets() == first
    api.invalidate_queries("transactions")
    assert wallets() == first
    api.invalidate_queries("wallets")
    assert wallets() == [{**first[0], "settled": 5}]
    # Others look whether all balances are the sums of their entries.
    database["wallets"].update_one({"owner_id": user["id"]}, {"$set": {"settled": 0}})


def test_what_the_api_itself_writes_is_seen_at_once(api: ConnectionAPI, application: AppManager, user: Row) -> None:
    def status() -> list[Any]:
        return [row["status"] for row in api.execute_query("users_public", {"_id": user["id"]})]

    def service_roles() -> int:
        return len(api.execute_query("users_public", {"role": "service"}, limit=1000))

    assert status() == ["active"]
    before = service_roles()
    new_user(api, role="service")
    assert service_roles() == before + 1
    assert [row["status"] for row in api.execute_query("wallets", {"owner_id": user["id"]})] == ["active"]
    api.delete_user(user["id"])
    assert status() == ["deleted"]
    assert [row["status"] for row in api.execute_query("wallets", {"owner_id": user["id"]})] == ["frozen"]


def test_queries_that_differ_in_anything_are_cached_apart(api: ConnectionAPI, user: Row) -> None:
    def ids(**options: Any) -> list[str]:
        return [row["_id"] for row in api.execute_query("users_public", {"created_at": {"$gte": started}}, **options)]

    started = datetime.now(UTC)
    made = [new_user(api)["id"] for _ in range(3)]
    assert ids() == made
    assert ids(limit=2) == made[:2]
    assert ids(sort=(("_id", -1),)) == made[::-1]
    assert api.execute_query("users_public", {"_id": made[0]}, ("role",)) == [{"_id": made[0], "role": "user"}]
    assert api.execute_query("users_public", {"_id": made[0]}, ("status",)) == [{"_id": made[0], "status": "active"}]


@pytest.mark.parametrize("collection", ["users", "user_sessions", "api_keys", "idempotency", "system.users", "no_such_collection"])
def test_private_collections_cannot_be_queried(api: ConnectionAPI, collection: str) -> None:
    refused(Forbidden, "collection-private", api.execute_query, collection, {})


def test_queries_run_as_the_read_only_user(api: ConnectionAPI, application: AppManager, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    collection = application.database_manager.collection
    monkeypatch.setattr(application.database_manager, "collection", lambda name, role: seen.append(role) or collection(name, role))
    api.execute_query("wallets", {"owner_id": unique("nobody")})
    assert seen == ["read_only"]


def test_the_cache_shows_nothing_of_what_was_asked_or_found(api: ConnectionAPI, application: AppManager, user: Row) -> None:
    api.execute_query("wallets", {"owner_id": user["id"]})
    with Redis.from_url(application.config["REDIS_URL"], password=application.config["REDIS_PASSWORD"]) as client:
        stored = b"".join(key + (client.dump(key) or b"") for key in client.scan_iter())
    assert b"cache:" in stored
    assert user["id"].encode() not in stored
    assert b"owner_id" not in stored


# "Registers API routes (e.g., `/auth/refresh`)."


def test_its_routes_are_registered(api: ConnectionAPI, application: AppManager, http: FlaskClient, user: Row) -> None:
    mounted = {f"{route.method} {route.path}" for route in application.chain.routes}
    assert {f"{route.method} {route.path}" for route in api.routes} <= mounted
    session = api.create_session(user["id"])
    answer = http.post("/auth/refresh", json={"refresh_token": session["refresh_token"]})
    assert answer.status_code == 200
    assert answer.get_json()["user"] == user


# "Handles all error cases with centralized error handler."


def test_every_error_goes_through_the_central_handler(
    api: ConnectionAPI, application: AppManager, http: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = application.error_handler
    before = handler.frequency("invalid-credentials"), handler.frequency("internal")
    refusal = http.post("/auth/login", json={"login": unique("nobody"), "password": PASSWORD})
    assert (refusal.status_code, refusal.get_json()["code"]) == (401, "invalid-credentials")

    def fail(*_: Any) -> None:
        raise RuntimeError("mongodb://root:secret@db/ said no")

    monkeypatch.setattr(api.sessions, "log_in", fail)
    failure = http.post("/auth/login", json={"login": unique("nobody"), "password": PASSWORD})
    assert (failure.status_code, failure.get_json()["code"]) == (500, "internal")
    assert "mongodb" not in failure.get_data(as_text=True)
    for answer in (refusal, failure):
        assert answer.content_type == "application/problem+json"
    assert (handler.frequency("invalid-credentials"), handler.frequency("internal")) == (before[0] + 1, before[1] + 1)

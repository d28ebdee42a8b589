"""The routes of the ConnectionAPI."""

from __future__ import annotations

from typing import Any

from core.web.answers import NOTHING, Page
from core.web.fingerprints import FINGERPRINT_COOKIE
from core.web.models import PageQuery
from core.web.routing import ADMIN_SCOPE, ADMINS, EVERYONE, PUBLIC, Answer, Call, Route
from plugins.main_plugin.modules.connection_api.api_keys import ApiKeys
from plugins.main_plugin.modules.connection_api.schemas import (
    ApiKeyBody,
    ApiKeyView,
    CreateUserBody,
    LoginBody,
    NewApiKeyView,
    PasswordBody,
    RefreshBody,
    RegisterBody,
    SessionView,
    SignedInView,
    UserPatch,
    UsersQuery,
    UserView,
    user_view,
)
from plugins.main_plugin.modules.connection_api.sessions import Sessions
from plugins.main_plugin.modules.connection_api.users import Users

_AUTH = "auth"
_USERS_READ = "users:read"
_TAKEN = ("409 username-taken", "409 email-taken")
_GONE = ("404 not-found",)
_LAST_ADMIN = "409 last-admin"
# Only so many passwords are hashed at a time.
_BUSY = "503 backpressure"
# As long as browsers keep a cookie at all: without it the refresh token that is bound to it is worth nothing.
_COOKIE_SECONDS = 400 * 24 * 3600


def connection_routes(users: Users, sessions: Sessions, api_keys: ApiKeys) -> tuple[Route, ...]:
    """The module's routes, with handlers that call `users`, `sessions` and `api_keys`.

    What makes or changes credentials has no scope: it needs a session, and no API key can do it.
    """

    def register(call: Call) -> Answer:
        opened: list[tuple[dict[str, Any], str | None]] = []
        body = call.body
        users.create(body.username, body.email, body.password, also=lambda user, session: opened.append(sessions.open(call, user, session)))
        # The transaction may have run more than once; its last run is the one that counts.
        return _signed_in(*opened[-1], status=201)

    def login(call: Call) -> Answer:
        return _signed_in(*sessions.log_in(call, call.body.login, call.body.password))

    def refresh(call: Call) -> Answer:
        return Answer(sessions.refresh(call.body.refresh_token, call.fingerprint))

    def logout(call: Call) -> Answer:
        sessions.end(call.caller, call.caller.session_id)
        return Answer(status=204)

    def logout_all(call: Call) -> Answer:
        sessions.end_all(call.caller.user_id)
        return Answer(status=204)

    def me(call: Call) -> Answer:
        return Answer(user_view(users.get(call.caller, call.caller.user_id)))

    def password(call: Call) -> Answer:
        users.change_password(call.caller, call.body.current_password, call.body.new_password)
        return Answer(status=204)

    def own_sessions(call: Call) -> Answer:
        return Answer(sessions.page(call.caller, call.query))

    def end_session(call: Call) -> Answer:
        sessions.end(call.caller, call.params["id"])
        return Answer(status=204)

    def make_key(call: Call) -> Answer:
        return Answer(api_keys.create(call.caller, call.body), 201)

    def own_keys(call: Call) -> Answer:
        return Answer(api_keys.page(call.caller, call.query))

    def show_key(call: Call) -> Answer:
        return Answer(api_keys.get(call.caller, call.params["id"]))

    def revoke_key(call: Call) -> Answer:
        api_keys.revoke(call.caller, call.params["id"])
        return Answer(status=204)

    def index(call: Call) -> Answer:
        return Answer(users.page(call.caller, call.query))

    def create(call: Call) -> Answer:
        body = call.body
        return Answer(user_view(users.create(body.username, body.email, body.password, body.role)), 201)

    def show(call: Call) -> Answer:
        return Answer(user_view(users.get(call.caller, call.params["id"])))

    def change(call: Call) -> Answer:
        return Answer(user_view(users.change(call.caller, call.params["id"], call.body)))

    def erase(call: Call) -> Answer:
        users.erase(call.caller, call.params["id"])
        return Answer(status=204)

    credentials: dict[str, Any] = {"roles": PUBLIC, "limit": _AUTH}
    return (
        Route(
            *("POST", "/auth/register", register),
            summary="Make an account and sign in",
            body=RegisterBody,
            answers={201: SignedInView},
            refuses=(*_TAKEN, _BUSY),
            **credentials,
        ),
        Route(
            *("POST", "/auth/login", login),
            summary="Sign in",
            body=LoginBody,
            answers=SignedInView,
            refuses=("401 invalid-credentials", _BUSY),
            **credentials,
        ),
        Route(
            *("POST", "/auth/refresh", refresh),
            summary="Trade a refresh token for a new pair",
            body=RefreshBody,
            answers=SignedInView,
            refuses=("401 token-invalid", "401 token-expired", "401 session-revoked", "401 refresh-reused"),
            **credentials,
        ),
        Route("POST", "/auth/logout", logout, EVERYONE, "End this session", answers=NOTHING, refuses=_GONE),
        Route("POST", "/auth/logout-all", logout_all, EVERYONE, "End all of the caller's sessions", answers=NOTHING),
        Route("GET", "/auth/me", me, EVERYONE, "The caller", scope=_USERS_READ, answers=UserView, refuses=_GONE),
        Route(
            *("PUT", "/auth/password", password, EVERYONE, "Change the password"),
            body=PasswordBody,
            limit=_AUTH,
            answers=NOTHING,
            refuses=("401 invalid-credentials", _BUSY, *_GONE),
        ),
        Route("GET", "/auth/sessions", own_sessions, EVERYONE, "The caller's sessions", query=PageQuery, answers=Page[SessionView]),
        Route("DELETE", "/auth/sessions/{id}", end_session, EVERYONE, "End one of the caller's sessions", answers=NOTHING),
        Route(
            *("POST", "/auth/api-keys", make_key, EVERYONE, "Make an API key"),
            body=ApiKeyBody,
            answers={201: NewApiKeyView},
            refuses=("409 too-many-api-keys",),
        ),
        Route("GET", "/auth/api-keys", own_keys, EVERYONE, "The caller's API keys", query=PageQuery, answers=Page[ApiKeyView]),
        Route("GET", "/auth/api-keys/{id}", show_key, EVERYONE, "One of the caller's API keys", answers=ApiKeyView),
        Route("DELETE", "/auth/api-keys/{id}", revoke_key, EVERYONE, "Revoke one of the caller's API keys", answers=NOTHING),
        Route("GET", "/users", index, ADMINS, "All users", query=UsersQuery, scope=ADMIN_SCOPE, answers=Page[UserView]),
        Route(
            *("POST", "/users", create, ADMINS, "Make an account for someone"),
            body=CreateUserBody,
            scope=ADMIN_SCOPE,
            answers={201: UserView},
            refuses=(*_TAKEN, _BUSY),
        ),
        Route("GET", "/users/{id}", show, EVERYONE, "A user", scope=_USERS_READ, answers=UserView),
        Route(
            *("PATCH", "/users/{id}", change, EVERYONE, "Change a user"),
            body=UserPatch,
            scope=ADMIN_SCOPE,
            answers=UserView,
            refuses=(*_TAKEN, _LAST_ADMIN),
        ),
        Route(
            *("DELETE", "/users/{id}", erase, EVERYONE, "Erase a user's personal data"),
            scope=ADMIN_SCOPE,
            answers=NOTHING,
            refuses=(_LAST_ADMIN,),
        ),
    )


def _signed_in(body: dict[str, object], cookie: str | None, status: int = 200) -> Answer:
    headers = {}
    if cookie is not None:
        headers["Set-Cookie"] = f"{FINGERPRINT_COOKIE}={cookie}; Path=/; Max-Age={_COOKIE_SECONDS}; Secure; HttpOnly; SameSite=Strict"
    return Answer(body, status, headers)

"""The routes of the ConnectionAPI."""

from __future__ import annotations

from typing import Any

from core.web.fingerprints import FINGERPRINT_COOKIE
from core.web.models import PageQuery
from core.web.routing import ADMINS, EVERYONE, PUBLIC, Answer, Call, Route
from plugins.main_plugin.modules.connection_api.schemas import (
    CreateUserBody,
    LoginBody,
    PasswordBody,
    RefreshBody,
    RegisterBody,
    UserPatch,
    UsersQuery,
    user_view,
)
from plugins.main_plugin.modules.connection_api.sessions import Sessions
from plugins.main_plugin.modules.connection_api.users import Users

_AUTH = "auth"
# As long as browsers keep a cookie at all: without it the refresh token that is bound to it is worth nothing.
_COOKIE_SECONDS = 400 * 24 * 3600


def connection_routes(users: Users, sessions: Sessions) -> tuple[Route, ...]:
    """The module's routes, with handlers that call `users` and `sessions`."""

    def register(call: Call) -> Answer:
        opened: list[tuple[dict[str, Any], str | None]] = []
        body = call.body
        users.create(body.username, body.email, body.password, also=lambda user, session: opened.append(sessions.open(call, user, session)))
        # The transaction may have run more than once; its last run is the one that counts.
        return _signed_in(*opened[-1], status=201)

    def login(call: Call) -> Answer:
        return _signed_in(*sessions.log_in(call, call.body.login, call.body.password))

    def refresh(call: Call) -> Answer:
        return Answer(sessions.refresh(call, call.body.refresh_token))

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

    return (
        Route("POST", "/auth/register", register, PUBLIC, "Make an account and sign in", body=RegisterBody, limit=_AUTH),
        Route("POST", "/auth/login", login, PUBLIC, "Sign in", body=LoginBody, limit=_AUTH),
        Route("POST", "/auth/refresh", refresh, PUBLIC, "Trade a refresh token for a new pair", body=RefreshBody, limit=_AUTH),
        Route("POST", "/auth/logout", logout, EVERYONE, "End this session"),
        Route("POST", "/auth/logout-all", logout_all, EVERYONE, "End all of the caller's sessions"),
        Route("GET", "/auth/me", me, EVERYONE, "The caller"),
        Route("PUT", "/auth/password", password, EVERYONE, "Change the password", body=PasswordBody, limit=_AUTH),
        Route("GET", "/auth/sessions", own_sessions, EVERYONE, "The caller's sessions", query=PageQuery),
        Route("DELETE", "/auth/sessions/{id}", end_session, EVERYONE, "End one of the caller's sessions"),
        Route("GET", "/users", index, ADMINS, "All users", query=UsersQuery),
        Route("POST", "/users", create, ADMINS, "Make an account for someone", body=CreateUserBody),
        Route("GET", "/users/{id}", show, EVERYONE, "A user"),
        Route("PATCH", "/users/{id}", change, EVERYONE, "Change a user", body=UserPatch),
        Route("DELETE", "/users/{id}", erase, EVERYONE, "Erase a user's personal data"),
    )


def _signed_in(body: dict[str, object], cookie: str | None, status: int = 200) -> Answer:
    headers = {}
    if cookie is not None:
        headers["Set-Cookie"] = f"{FINGERPRINT_COOKIE}={cookie}; Path=/; Max-Age={_COOKIE_SECONDS}; Secure; HttpOnly; SameSite=Strict"
    return Answer(body, status, headers)

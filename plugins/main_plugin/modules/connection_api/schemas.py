"""What comes in and goes out of the ConnectionAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from core.web.answers import Time, UserId, View
from core.web.models import Body, PageQuery, Text
from plugins.main_plugin.modules.connection_api.identities import shown_email, shown_username
from utils.clock import rfc3339

Username = Annotated[Text, Field(max_length=64, examples=["ada"]), AfterValidator(shown_username)]
Email = Annotated[Text, Field(max_length=254, examples=["ada@example.com"]), AfterValidator(shown_email)]
NewPassword = Annotated[Text, Field(min_length=12, max_length=128, examples=["a rather long passphrase"])]
# A wrong one is answered like any other wrong one; only its size is bounded.
GivenPassword = Annotated[Text, Field(min_length=1, max_length=1024, examples=["a rather long passphrase"])]
Token = Annotated[Text, Field(min_length=1, max_length=4096)]
Role = Literal["user", "service", "analyst", "admin"]


_TEN_YEARS = 10 * 365 * 24 * 3600


def _refuse_repeated(scopes: list[str]) -> list[str]:
    if len(set(scopes)) != len(scopes):
        raise ValueError("must not name a scope twice")
    return scopes


Scope = Annotated[Text, Field(max_length=64)]
Scopes = Annotated[
    list[Scope],
    Field(min_length=1, max_length=32, examples=[["wallets:read"]], json_schema_extra={"uniqueItems": True}),
    AfterValidator(_refuse_repeated),
]


class RegisterBody(Body):
    username: Username
    email: Email
    password: NewPassword


class CreateUserBody(RegisterBody):
    role: Role = "user"


class LoginBody(Body):
    login: Annotated[Text, Field(min_length=1, max_length=254, examples=["ada"])]
    password: GivenPassword


class RefreshBody(Body):
    refresh_token: Token


class PasswordBody(Body):
    current_password: GivenPassword
    new_password: NewPassword


class ApiKeyBody(Body):
    """`scopes` are those of the routes; `expires_in` in seconds, without it the key lives until it is deleted."""

    name: Annotated[Text, Field(min_length=1, max_length=64)]
    scopes: Scopes
    expires_in: Annotated[int, Field(ge=1, le=_TEN_YEARS)] | None = None


class UserPatch(Body):
    """What may change; `role` and `status` only by an admin."""

    username: Username | None = None
    email: Email | None = None
    role: Role | None = None
    status: Literal["active", "suspended"] | None = None


class UsersQuery(PageQuery):
    role: Role | None = None


ApiKeyId = Annotated[str, Field(examples=["k_019aa5f07c3e5b1d9e4f2a68"])]


class UserView(View):
    """An erased user has no names any more."""

    id: UserId
    username: str | None
    email: str | None
    role: Role
    status: Literal["active", "suspended", "deleted"]
    created_at: Time


class SignedInView(View):
    """`expires_in`: seconds that the access token lives."""

    user: UserView
    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"]
    expires_in: Annotated[int, Field(examples=[900])]


class SessionView(View):
    """`current`: the one of this request."""

    id: Annotated[str, Field(examples=["s_019aa5f07c3e5b1d9e4f2a68"])]
    current: bool
    user_agent: str | None
    created_at: Time
    last_used_at: Time
    expires_at: Time


class ApiKeyView(View):
    """`expires_at` null: it lives until it is deleted."""

    id: ApiKeyId
    name: str
    scopes: Annotated[list[str], Field(examples=[["wallets:read"]])]
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None


class NewApiKeyView(ApiKeyView):
    """`key` is what is sent as X-API-Key; it is never shown again."""

    key: str


def user_view(user: dict[str, Any]) -> dict[str, Any]:
    """A user document as clients see it; an erased user has no names any more."""
    profile = user.get("profile") or {"username": None, "email": None}
    return {
        "id": user["_id"],
        "username": profile["username"],
        "email": profile["email"],
        "role": user["role"],
        "status": user["status"],
        "created_at": rfc3339(user["created_at"]),
    }


def session_view(session: dict[str, Any], current_id: str) -> dict[str, Any]:
    """A session as its user sees it."""
    return {
        "id": session["_id"],
        "current": session["_id"] == current_id,
        "user_agent": session["user_agent"],
        "created_at": rfc3339(session["created_at"]),
        "last_used_at": rfc3339(session["last_used_at"]),
        "expires_at": rfc3339(session["expires_at"]),
    }


def api_key_view(row: dict[str, Any]) -> dict[str, Any]:
    """An API key as its owner sees it; its text is only in the answer that makes it."""
    moments = {name: rfc3339(row[name]) if row[name] is not None else None for name in ("created_at", "expires_at", "last_used_at")}
    return {"id": row["_id"], "name": row["name"], "scopes": row["scopes"], **moments}

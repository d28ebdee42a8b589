"""What comes in and goes out of the ConnectionAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from core.web.models import Body, PageQuery, Text
from plugins.main_plugin.modules.connection_api.identities import shown_email, shown_username
from utils.clock import rfc3339

Username = Annotated[Text, Field(max_length=64), AfterValidator(shown_username)]
Email = Annotated[Text, Field(max_length=254), AfterValidator(shown_email)]
NewPassword = Annotated[Text, Field(min_length=12, max_length=128)]
# A wrong one is answered like any other wrong one; only its size is bounded.
GivenPassword = Annotated[Text, Field(min_length=1, max_length=1024)]
Token = Annotated[Text, Field(min_length=1, max_length=4096)]
Role = Literal["user", "service", "analyst", "admin"]


_TEN_YEARS = 10 * 365 * 24 * 3600


def _refuse_repeated(scopes: list[str]) -> list[str]:
    if len(set(scopes)) != len(scopes):
        raise ValueError("must not name a scope twice")
    return scopes


class RegisterBody(Body):
    username: Username
    email: Email
    password: NewPassword


class CreateUserBody(RegisterBody):
    role: Role = "user"


class LoginBody(Body):
    login: Annotated[Text, Field(min_length=1, max_length=254)]
    password: GivenPassword


class RefreshBody(Body):
    refresh_token: Token


class PasswordBody(Body):
    current_password: GivenPassword
    new_password: NewPassword


class ApiKeyBody(Body):
    """`scopes` are those of the routes; `expires_in` in seconds, without it the key lives until it is deleted."""

    name: Annotated[Text, Field(min_length=1, max_length=64)]
    scopes: Annotated[list[Annotated[Text, Field(max_length=64)]], Field(min_length=1, max_length=32), AfterValidator(_refuse_repeated)]
    expires_in: Annotated[int, Field(ge=1, le=_TEN_YEARS)] | None = None


class UserPatch(Body):
    """What may change; `role` and `status` only by an admin."""

    username: Username | None = None
    email: Email | None = None
    role: Role | None = None
    status: Literal["active", "suspended"] | None = None


class UsersQuery(PageQuery):
    role: Role | None = None


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

"""The refusals of the ConnectionAPI, each with its code."""

from __future__ import annotations

from tools.error_handling.errors import Conflict, NotFound, Unauthenticated


def username_taken() -> Conflict:
    return Conflict("This username is taken.", code="username-taken", title="Username taken")


def email_taken() -> Conflict:
    return Conflict("This e-mail address is taken.", code="email-taken", title="E-mail taken")


def invalid_credentials() -> Unauthenticated:
    return Unauthenticated("The login or the password is wrong.", code="invalid-credentials", title="Invalid credentials")


def session_ended() -> Unauthenticated:
    return Unauthenticated("The session has ended.", code="session-revoked", title="Session ended")


def key_invalid() -> Unauthenticated:
    return Unauthenticated("The API key is not valid: unknown, expired or revoked.", code="api-key-invalid", title="API key not valid")


def key_not_found() -> NotFound:
    return NotFound("There is no such API key.")


def too_many_keys(limit: int) -> Conflict:
    return Conflict(f"You have {limit} API keys: delete one first.", code="too-many-api-keys", title="Too many API keys", limit=limit)


def user_not_found() -> NotFound:
    return NotFound("There is no such user.")


def session_not_found() -> NotFound:
    return NotFound("There is no such session.")


def last_admin() -> Conflict:
    return Conflict("This is the last active admin.", code="last-admin", title="Last admin")

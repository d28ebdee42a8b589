"""The errors that a client may see: each knows its status, its code and what else its problem document carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class AppError(Exception):
    """Base of all errors that are answers. `code` is what clients branch on; `extra` goes into the problem as it is."""

    status = 500
    code = "internal"
    title = "Internal error"

    def __init__(
        self,
        detail: str = "",
        *,
        code: str | None = None,
        title: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.code
        self.title = title or self.title
        self.extra = extra
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, retry_after))

    def problem(self) -> dict[str, Any]:
        """The problem document (RFC 9457), without the request's id."""
        document: dict[str, Any] = {"type": f"urn:credit-system:problem:{self.code}", "title": self.title, "status": self.status}
        if self.detail:
            document["detail"] = self.detail
        return {**document, "code": self.code, **self.extra}


class MalformedRequest(AppError):
    status, code, title = 400, "malformed-request", "Malformed request"


class Unauthenticated(AppError):
    """There is no token, or none that we accept; the answer says how to send one (RFC 6750)."""

    status, code, title = 401, "unauthenticated", "Not authenticated"

    def __init__(self, detail: str = "", **more: Any) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"}, **more)


class InsufficientFunds(AppError):
    status, code, title = 402, "insufficient-funds", "Insufficient funds"


class Forbidden(AppError):
    status, code, title = 403, "forbidden", "Forbidden"


class Banned(Forbidden):
    code, title = "banned", "Banned"


class NotFound(AppError):
    status, code, title = 404, "not-found", "Not found"


class RequestTimeout(AppError):
    status, code, title = 408, "request-timeout", "Request timeout"


class Conflict(AppError):
    status, code, title = 409, "conflict", "Conflict"


class VersionConflict(AppError):
    """The record is not at the version that the client has seen (If-Match)."""

    status, code, title = 412, "version-conflict", "Version conflict"


class PayloadTooLarge(AppError):
    status, code, title = 413, "payload-too-large", "Request body too large"


class UnsupportedMediaType(AppError):
    status, code, title = 415, "unsupported-media-type", "Unsupported media type"


class Unprocessable(AppError):
    """The request was understood and cannot be; `errors` names the fields."""

    status, code, title = 422, "validation-failed", "Validation failed"

    @classmethod
    def of_field(cls, field: str, message: str, *, code: str | None = None) -> Unprocessable:
        """The error of one field, in the shape in which the models report theirs."""
        return cls(f"{field}: {message}", code=code, errors=[{"field": field, "message": message}])


class RateLimited(AppError):
    status, code, title = 429, "rate-limited", "Too many requests"


class Unavailable(AppError):
    """A dependency is away or we are overloaded; nothing was changed, and a retry may succeed."""

    status, code, title = 503, "unavailable", "Service unavailable"

    def __init__(self, detail: str = "Please retry.", *, retry_after: int = 1, **more: Any) -> None:
        super().__init__(detail, retry_after=retry_after, **more)


class OutcomeUnknown(Unavailable):
    """The commit was sent and its answer was lost: only a retry with the same key tells what happened."""

    code, title = "outcome-unknown", "Outcome unknown"


class StoredProblem(AppError):
    """A problem that was decided (and perhaps stored) earlier, answered again as it was."""

    def __init__(self, document: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(document.get("detail", ""), code=document["code"], headers=headers)
        self.status = document["status"]
        self._document = dict(document)

    def problem(self) -> dict[str, Any]:
        return dict(self._document)

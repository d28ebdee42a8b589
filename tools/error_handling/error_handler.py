"""The one seam where an exception becomes an answer: sanitised, counted, and logged when it is our fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from tools.error_handling.errors import AppError, MalformedRequest, Unprocessable
from tools.error_handling.frequency import Frequencies
from tools.logger.custom_logger import custom_log, log_exception
from tools.logger.redaction import redact

_TRACEBACKS_PER_MINUTE = 10
# A body may have thousands of wrong fields; the answer does not grow with it.
_ERRORS_NAMED = 50
# Of these fields there is nothing that could be a wrong amount: one is not there, the other has no business there.
_ABSENT = ("missing", "extra_forbidden")


@dataclass(frozen=True)
class Problem:
    """An error answer: status, the problem document, and the headers that belong to it."""

    status: int
    document: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


class ErrorHandler:
    """Turns exceptions into problems and keeps count of them; one instance a process.

    `counted` is told the code of each error that is answered (a metric).
    """

    def __init__(self, counted: Callable[[str], object] | None = None) -> None:
        self._counted = counted
        self._frequencies = Frequencies()

    def handle(self, error: BaseException, request_id: str) -> Problem:
        """The problem for `error`. What is not an AppError, a validation or an HTTP error is logged with its traceback."""
        problem = self._translate(error)
        code = problem.document["code"]
        self._frequencies.add(code)
        if self._counted is not None:
            self._counted(code)
        if problem.status >= 500 and not isinstance(error, AppError):
            self._log_unexpected(error, code, request_id)
        # What is raised should hold nothing that a client may not see; where it does all the same, it ends here.
        document = redact({**problem.document, "request_id": request_id})
        return Problem(problem.status, document, problem.headers)

    def frequency(self, code: str) -> int:
        """How often `code` was answered in the last five minutes, by this process."""
        return self._frequencies.of(code)

    def frequent(self) -> dict[str, int]:
        """The codes answered in the last five minutes by this process and how often, the most frequent first."""
        return self._frequencies.all()

    def _translate(self, error: BaseException) -> Problem:
        if isinstance(error, AppError):
            return Problem(error.status, error.problem(), error.headers)
        if isinstance(error, HTTPException):
            return _from_http(error)
        return self._translate(AppError("Something went wrong on our side; the request id helps us to find it."))

    def _log_unexpected(self, error: BaseException, code: str, request_id: str) -> None:
        # A fault that repeats on every request must not fill the disk with the same traceback.
        if self._frequencies.of(code, seconds=60) <= _TRACEBACKS_PER_MINUTE:
            log_exception("unexpected error", error, request_id=request_id)
        else:
            custom_log("unexpected error", level="ERROR", error=type(error).__name__, request_id=request_id)


def from_validation(error: ValidationError) -> AppError:
    """A model's refusal as 400 (not JSON) or 422 (with every field); the values that were sent are never repeated."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    if any(detail["type"] == "json_invalid" for detail in details):
        return MalformedRequest("The body is not valid JSON.")
    errors = [{"field": _field_name(detail["loc"]), "message": detail["msg"]} for detail in details[:_ERRORS_NAMED]]
    about_amount = all(_field_name(detail["loc"]) == "amount" and detail["type"] not in _ABSENT for detail in details)
    code = "amount-invalid" if about_amount else "validation-failed"
    return Unprocessable("; ".join(f"{e['field']}: {e['message']}" for e in errors[:3]), code=code, errors=errors)


def _field_name(location: tuple[int | str, ...]) -> str:
    # An unknown field's name is the client's own text: cut, so that an answer never grows with it. Parts in angle
    # brackets name the branch of a union and not a field.
    return ".".join(str(part)[:64] for part in location if not str(part).startswith("<")) or "body"


def _from_http(error: HTTPException) -> Problem:
    """An HTTP error of the framework; its own headers (Allow, Retry-After, WWW-Authenticate) survive."""
    response = error.get_response()
    headers = {name: value for name, value in response.headers if name not in ("Content-Type", "Content-Length")}
    status = error.code or (response.status_code if error.response is not None else 500)
    code = {400: "malformed-request", 413: "payload-too-large"}.get(status, error.name.lower().replace(" ", "-"))
    document = {"type": f"urn:credit-system:problem:{code}", "title": error.name, "status": status, "code": code}
    return Problem(status, document, headers)

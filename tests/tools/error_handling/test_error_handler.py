"""The one seam from exceptions to answers: always complete, never with an unknown exception's words."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response, abort
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug import exceptions as http
from werkzeug.datastructures import WWWAuthenticate

from core.web.models import NoQuery
from tools.error_handling.error_handler import ErrorHandler, Problem, from_validation
from tools.error_handling.errors import AppError, InsufficientFunds, MalformedRequest, RateLimited, Unavailable, Unprocessable

CANARY = "canary-7f3a"


def every_kind_of(parent: type[BaseException]) -> list[type[BaseException]]:
    return [parent, *(kind for child in parent.__subclasses__() for kind in every_kind_of(child))]


def made_of_text(kind: type[BaseException]) -> bool:
    try:
        kind(CANARY)
    except Exception:
        return False
    return not issubclass(kind, (AppError, http.HTTPException, RecursionError)) and kind.__module__ in ("builtins", "json.decoder")


UNKNOWN = sorted({kind for kind in every_kind_of(BaseException) if made_of_text(kind)}, key=lambda kind: kind.__name__)
HTTP = sorted(
    {kind for kind in every_kind_of(http.HTTPException) if kind.__module__ == http.__name__ and getattr(kind, "code", None)},
    key=lambda kind: kind.__name__,
)


class Order(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    amount: int = Field(gt=0)
    memo: str = ""


@pytest.fixture
def handler() -> ErrorHandler:
    return ErrorHandler()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is logged is looked at in the tests of the logger."""
    logger = logging.getLogger("credit.server")
    before = logger.disabled
    logger.disabled = True
    yield
    logger.disabled = before


def assert_complete(problem: Problem, request_id: str = "req-1") -> None:
    document = problem.document
    assert {"type", "title", "status", "code", "request_id"} <= set(document)
    assert document["status"] == problem.status
    assert 400 <= problem.status <= 599
    assert document["type"] == f"urn:credit-system:problem:{document['code']}"
    assert document["request_id"] == request_id
    assert all(isinstance(document[name], str) and document[name] for name in ("type", "title", "code"))
    assert not {"Content-Type", "Content-Length"} & set(problem.headers)
    json.dumps(document)


@given(st.sampled_from(UNKNOWN), st.text(min_size=8, max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_unknown_exception_is_a_complete_problem_without_its_text(kind: type[BaseException], text: str) -> None:
    problem = ErrorHandler().handle(kind(f"{CANARY}{text}"), "req-1")
    assert_complete(problem)
    assert (problem.status, problem.document["code"], problem.headers) == (500, "internal", {})
    assert CANARY not in json.dumps(problem.document)
    assert kind.__name__ not in json.dumps(problem.document)


@pytest.mark.parametrize("kind", HTTP, ids=lambda kind: kind.__name__)
def test_every_http_error_is_a_complete_problem_without_its_description(kind: type[http.HTTPException], handler: ErrorHandler) -> None:
    problem = handler.handle(kind(description=CANARY), "req-1")
    assert_complete(problem)
    assert problem.status == kind.code
    assert CANARY not in json.dumps(problem.document)


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (http.MethodNotAllowed(["GET", "PUT"]), "Allow", "GET, PUT"),
        (http.TooManyRequests(retry_after=30), "Retry-After", "30"),
        (http.ServiceUnavailable(retry_after=7), "Retry-After", "7"),
        (http.Unauthorized(www_authenticate=WWWAuthenticate("bearer")), "WWW-Authenticate", "Bearer"),
        (http.RequestedRangeNotSatisfiable(length=12), "Content-Range", "bytes */12"),
    ],
)
def test_the_headers_of_an_http_error_survive(error: http.HTTPException, name: str, value: str, handler: ErrorHandler) -> None:
    headers = {key.lower(): text for key, text in handler.handle(error, "req-1").headers.items()}
    assert headers[name.lower()].strip() == value


def test_an_http_error_without_a_status_is_our_fault(handler: ErrorHandler) -> None:
    problem = handler.handle(http.HTTPException(CANARY), "req-1")
    assert_complete(problem)
    assert problem.status == 500


def test_a_response_that_was_aborted_with_keeps_its_status(handler: ErrorHandler) -> None:
    with Flask("x").test_request_context(), pytest.raises(http.HTTPException) as raised:
        abort(Response("gone", status=410, headers={"Retry-After": "9"}))
    problem = handler.handle(raised.value, "req-1")
    assert_complete(problem)
    assert (problem.status, problem.headers["Retry-After"]) == (410, "9")


@pytest.mark.parametrize("error", [InsufficientFunds("Not enough.", available=1, required=2), Unavailable(), RateLimited(retry_after=3)])
def test_an_error_of_ours_is_answered_as_it_is(error: AppError, handler: ErrorHandler) -> None:
    problem = handler.handle(error, "req-1")
    assert_complete(problem)
    assert problem.document == {**error.problem(), "request_id": "req-1"}
    assert problem.headers == error.headers


def test_errors_are_counted_by_code(handler: ErrorHandler) -> None:
    for _ in range(3):
        handler.handle(Unavailable(), "r")
    handler.handle(ValueError(), "r")
    assert (handler.frequency("unavailable"), handler.frequency("internal"), handler.frequency("not-found")) == (3, 1, 0)


def test_a_fault_that_repeats_is_not_logged_with_its_traceback_for_ever(handler: ErrorHandler) -> None:
    class Seen(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.tracebacks, self.lines = 0, 0

        def emit(self, record: logging.LogRecord) -> None:
            self.lines += 1
            self.tracebacks += record.exc_info is not None

    logger, seen = logging.getLogger("credit.server"), Seen()
    logger.disabled = False
    logger.addHandler(seen)
    try:
        for number in range(30):
            handler.handle(KeyError(number), "r")
    finally:
        logger.removeHandler(seen)
    assert (seen.lines, seen.tracebacks) == (30, 10)


def test_the_most_frequent_errors_can_be_asked_for_and_each_is_told(handler: ErrorHandler) -> None:
    told: list[str] = []
    handler = ErrorHandler(told.append)
    for error in (Unavailable(), RateLimited(), Unavailable()):
        handler.handle(error, "r")
    assert handler.frequent() == {"unavailable": 2, "rate-limited": 1}
    assert told == ["unavailable", "rate-limited", "unavailable"]


SECRETS = [
    f"mail to {CANARY}@example.com",
    f"Bearer {CANARY}.abc",
    f"mongodb://app:{CANARY}@db/",
    f"password={CANARY}",
    '{"refresh_token": "' + CANARY + '"}',
    f"eyJ{CANARY}0000.{CANARY}.{CANARY}",
]


@given(st.sampled_from(SECRETS), st.text(max_size=10), st.sampled_from([Unavailable, MalformedRequest, InsufficientFunds, AppError]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_secret_in_an_error_of_ours_ends_before_the_answer(secret: str, text: str, kind: type[AppError]) -> None:
    text = f"{text} {secret}"
    errors = [{"field": secret, "message": text}]
    for error in (kind(text), kind(title=text), kind(errors=errors), kind(password=CANARY), Unprocessable.of_field("x", text)):
        problem = ErrorHandler().handle(error, "req-1")
        assert_complete(problem)
        assert CANARY not in json.dumps(problem.document)


# Refusals of the models


def refusal(raw: str) -> ValidationError:
    with pytest.raises(ValidationError) as raised:
        Order.model_validate_json(raw)
    return raised.value


@pytest.mark.parametrize(
    ("raw", "kind", "code", "fields"),
    [
        ("{", MalformedRequest, "malformed-request", None),
        ("", MalformedRequest, "malformed-request", None),
        ("[]", Unprocessable, "validation-failed", ["body"]),
        ("{}", Unprocessable, "validation-failed", ["amount"]),
        ('{"amount": 0}', Unprocessable, "amount-invalid", ["amount"]),
        ('{"amount": "1"}', Unprocessable, "amount-invalid", ["amount"]),
        ('{"amount": 0, "memo": 1}', Unprocessable, "validation-failed", ["amount", "memo"]),
        ('{"amount": 1, "colour": "red"}', Unprocessable, "validation-failed", ["colour"]),
    ],
)
def test_a_body_that_does_not_fit_names_its_fields(raw: str, kind: type[AppError], code: str, fields: list[str] | None) -> None:
    error = from_validation(refusal(raw))
    assert type(error) is kind
    assert error.code == code
    if fields is not None:
        assert [entry["field"] for entry in error.extra["errors"]] == fields


def test_an_amount_where_none_belongs_is_no_wrong_amount() -> None:
    with pytest.raises(ValidationError) as raised:
        NoQuery.model_validate({"amount": "1"})
    assert from_validation(raised.value).code == "validation-failed"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=10), lambda v: st.lists(v, max_size=3), max_leaves=5
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_values_that_were_sent_are_never_repeated(value: Any) -> None:
    error = from_validation(refusal(json.dumps({"amount": [CANARY, value], "memo": {CANARY: value}})))
    assert CANARY not in json.dumps(error.problem())


def test_an_answer_does_not_grow_with_what_was_sent() -> None:
    error = from_validation(refusal(json.dumps({"amount": 1, **{f"{'x' * 500}{number}": 0 for number in range(2000)}})))
    assert len(json.dumps(error.problem())) < 20_000


@pytest.mark.parametrize("error", [RecursionError(CANARY), refusal('{"amount": 0}')])
def test_what_only_input_may_raise_is_our_fault_anywhere_else(error: Exception, handler: ErrorHandler) -> None:
    problem = handler.handle(error, "req-1")
    assert_complete(problem)
    assert (problem.status, problem.document["code"]) == (500, "internal")


def test_a_translated_validation_error_is_the_clients_fault(handler: ErrorHandler) -> None:
    problem = handler.handle(from_validation(refusal('{"amount": 0}')), "req-1")
    assert_complete(problem)
    assert (problem.status, problem.document["code"]) == (422, "amount-invalid")

"""The error family: each is a complete problem document with the headers that belong to it."""

from __future__ import annotations

from typing import Any

import pytest

from tools.error_handling import errors
from tools.error_handling.errors import AppError, OutcomeUnknown, StoredProblem, Unauthenticated, Unavailable, Unprocessable


def family(parent: type[AppError] = AppError) -> list[type[AppError]]:
    return [parent, *(member for child in parent.__subclasses__() for member in family(child))]


OURS = [member for member in family() if member.__module__ == errors.__name__ and member is not StoredProblem]


@pytest.mark.parametrize("kind", OURS)
def test_every_error_is_a_problem_document(kind: type[AppError]) -> None:
    error = kind("What happened.", available=3)
    assert error.problem() == {
        "type": f"urn:credit-system:problem:{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": "What happened.",
        "code": kind.code,
        "available": 3,
    }
    assert 400 <= kind.status <= 599


@pytest.mark.parametrize("kind", OURS)
def test_a_code_and_a_title_of_ones_own_replace_the_usual_ones(kind: type[AppError]) -> None:
    problem = kind("x", code="own-code", title="Own title").problem()
    assert (problem["code"], problem["title"], problem["type"]) == ("own-code", "Own title", "urn:credit-system:problem:own-code")
    assert kind.code != "own-code"


def test_codes_are_told_apart() -> None:
    codes = [kind.code for kind in OURS]
    assert len(set(codes)) == len(codes)


def test_an_error_without_words_has_no_detail() -> None:
    assert "detail" not in AppError().problem()


@pytest.mark.parametrize(("given", "header"), [(30, "30"), (0, "1"), (-5, "1")])
def test_retry_after_is_never_less_than_a_second(given: int, header: str) -> None:
    assert AppError(retry_after=given).headers["Retry-After"] == header


def test_what_is_unavailable_says_when_to_retry() -> None:
    assert Unavailable().headers["Retry-After"] == "1"
    assert isinstance(OutcomeUnknown(), Unavailable)


def test_who_is_not_authenticated_is_told_how() -> None:
    assert Unauthenticated().headers["WWW-Authenticate"] == "Bearer"


def test_the_error_of_one_field_has_the_shape_of_the_models_errors() -> None:
    problem = Unprocessable.of_field("amount", "is odd", code="amount-invalid").problem()
    assert (problem["detail"], problem["code"]) == ("amount: is odd", "amount-invalid")
    assert problem["errors"] == [{"field": "amount", "message": "is odd"}]


def test_a_stored_problem_is_answered_as_it_was() -> None:
    document: dict[str, Any] = {**errors.Conflict("Taken.", transaction_id="tx_1").problem()}
    again = StoredProblem(document, {"Idempotency-Replayed": "true"})
    assert again.problem() == document
    assert (again.status, again.code, again.headers) == (409, "conflict", {"Idempotency-Replayed": "true"})

"""The document: valid, complete, and made of what the routes say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from openapi_spec_validator import validate

from core.managers.app_manager import AppManager
from core.web.answers import NOTHING, SOMETIMES, Page, View, contents_by_status
from core.web.models import Body, PageQuery
from core.web.openapi import build_document, refusals_of
from core.web.routing import ADMINS, EVERYONE, PUBLIC, Answer, Call, Route
from core.web.schema_examples import example_of


class Thing(View):
    name: str
    note: str = SOMETIMES


class ThingBody(Body):
    amount: int
    note: str | None = None


def handler(call: Call) -> Answer:
    return Answer()


def operation_of(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = build_document([route])["paths"][route.path][route.method.lower()]
    return found


@pytest.fixture(scope="module")
def document(application: AppManager) -> dict[str, Any]:
    """As it is served."""
    assert application.app is not None
    answer: dict[str, Any] = json.loads(application.app.test_client().get("/openapi.json").data)
    return answer


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_route_is_in_the_document(application: AppManager, document: dict[str, Any]) -> None:
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert described == {f"{route.method} {route.path}" for route in application.chain.routes}
    ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)


def test_every_body_has_an_example_that_is_taken(application: AppManager, document: dict[str, Any]) -> None:
    for route in application.chain.routes:
        if route.body is not None:
            content = document["paths"][route.path][route.method.lower()]["requestBody"]["content"]["application/json"]
            route.body.model_validate_json(json.dumps(content["example"]))


def contents_of(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every (media type, content) that anything answers."""
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    own = [response for operation in operations for response in operation["responses"].values()]
    for response in (*document["components"]["responses"].values(), *own):
        yield from response.get("content", {}).items()


def test_every_answer_in_json_has_examples_that_fit(document: dict[str, Any]) -> None:
    checked = 0
    for media_type, content in contents_of(document):
        examples = [each["value"] for each in content.get("examples", {}).values()] or [content.get("example")]
        if media_type in ("application/json", "application/problem+json") and content["schema"]:
            validator = jsonschema_rs.Draft202012Validator(
                {**content["schema"], "components": document["components"]}, validate_formats=True
            )
            assert all(validator.is_valid(example) for example in examples), content
            checked += len(examples)
    assert checked > 100


def test_socket_events_are_described(application: AppManager, document: dict[str, Any]) -> None:
    events = document["x-socket-events"]
    assert set(events["client"]) == {event.name for event in application.websocket_manager.events}
    assert events["client"]["broadcast"]["roles"] == ["admin"]
    assert {"message", "presence", "wallet_updated", "transaction_posted", "session_revoked"} <= set(events["server"])
    for event in (*events["client"].values(), *events["server"].values()):
        assert event["payload"]["$ref"].removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_a_route_says_who_may_and_what_an_api_key_needs() -> None:
    route = Route("GET", "/things", handler, ADMINS, "Things", scope="admin", answers=NOTHING)
    assert operation_of(route)["security"] == [{"bearer": ["admin"]}, {"apiKey": ["admin"]}]
    assert operation_of(Route("GET", "/things", handler, ADMINS, "Things", answers=NOTHING))["security"] == [{"bearer": ["admin"]}]
    assert operation_of(Route("GET", "/things", handler, PUBLIC, "Things", answers=NOTHING))["security"] == []


def test_what_a_route_can_be_refused_with_follows_from_what_it_is() -> None:
    money = Route(
        *("POST", "/things/{id}", handler, EVERYONE, "Thing", ThingBody),
        idempotent=True,
        answers=NOTHING,
        refuses=("409 thing-gone", "404 not-found"),
    )
    refusals = refusals_of(money)
    assert set(refusals) == {400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503}
    assert refusals[409] == {"thing-gone"}
    assert refusals[422] == {"validation-failed", "amount-invalid", "idempotency-key-reused"}
    assert {"outcome-unknown", "backpressure", "unavailable"} == refusals[503]
    assert {"idempotency-key-missing", "malformed-request"} <= refusals[400]
    public = refusals_of(Route("GET", "/things", handler, PUBLIC, "Things", query=PageQuery, answers=NOTHING))
    assert set(public) == {400, 403, 422, 429, 500, 503}
    assert "invalid-cursor" in public[400]
    assert public[403] == {"banned"}
    assert set(refusals_of(Route("GET", "/things", handler, PUBLIC, "Things", unlimited=True, answers=NOTHING))) == {400, 422, 500}


def test_headers_that_a_route_takes_are_parameters() -> None:
    def names(route: Route) -> set[str]:
        return {parameter.get("name", parameter.get("$ref", "").rpartition("/")[2]) for parameter in operation_of(route)["parameters"]}

    assert names(Route("POST", "/things/{id}", handler, EVERYONE, "Thing", idempotent=True, answers=Thing)) == {"id", "Idempotency-Key"}
    assert names(Route("PATCH", "/things/{id}", handler, EVERYONE, "Thing", versioned=True, answers=Thing)) == {"id", "If-Match"}
    assert names(Route("GET", "/things/{id}", handler, EVERYONE, "Thing", versioned=True, answers=Thing)) == {"id"}
    assert names(Route("GET", "/things", handler, EVERYONE, "Things", query=PageQuery, answers=Thing)) == {"limit", "cursor"}


def test_a_query_parameter_is_left_out_and_never_null() -> None:
    cursor = operation_of(Route("GET", "/things", handler, EVERYONE, "Things", query=PageQuery, answers=Thing))["parameters"][1]
    assert cursor == {"name": "cursor", "in": "query", "required": False, "schema": {"type": "string", "maxLength": 1024}}


def test_answers_have_one_form_whatever_they_are_declared_as() -> None:
    assert contents_by_status(Thing) == {200: (Thing,)}
    assert contents_by_status(NOTHING) == {204: ()}
    assert contents_by_status({201: Thing, 200: (Thing, "text/csv")}) == {201: (Thing,), 200: (Thing, "text/csv")}


def test_views_are_closed_and_what_is_there_sometimes_is_not_required() -> None:
    document = build_document([Route("GET", "/things", handler, EVERYONE, "Things", answers=Page[Thing])])
    thing = document["components"]["schemas"]["Thing"]
    assert thing["additionalProperties"] is False
    assert thing["required"] == ["name"]
    assert "default" not in thing["properties"]["note"]


def test_a_route_that_declares_nothing_is_described_as_far_as_it_is_known() -> None:
    document = build_document([Route("GET", "/things", handler, EVERYONE, "Things")])
    validate(document)
    assert "2XX" in document["paths"]["/things"]["get"]["responses"]


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        ({"type": "integer", "examples": [7], "default": 1}, 7),
        ({"type": "integer", "default": 3}, 3),
        ({"type": "string", "format": "date-time"}, "2040-01-01T00:00:00Z"),
        ({"enum": ["a", "b"]}, "a"),
        ({"const": "x"}, "x"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, False),
        ({"type": "array", "items": {"type": "string"}}, ["text"]),
        ({"$ref": "#/components/schemas/Named"}, {"shown": "yes"}),
    ],
)
def test_examples_are_put_together_from_the_parts(schema: dict[str, Any], example: Any) -> None:
    named = {"type": "object", "properties": {"shown": {"const": "yes"}, "left_out": {"type": "string"}}, "required": ["shown"]}
    assert example_of(schema, {"Named": named}) == example

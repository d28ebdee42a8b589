"""The OpenAPI document (3.1), made from the routes themselves and from the models of what they take and answer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from core.web.answers import Content, Problem, contents_by_status
from core.web.models import PageQuery
from core.web.routing import Route
from core.web.schema_examples import example_of, example_problem
from core.web.socket_events import Event

# Of the contract.
VERSION = "0.1.0"
JSON, PROBLEM_JSON = "application/json", "application/problem+json"
_SCHEMAS = "#/components/schemas/"
_PARAMETER = re.compile(r"{(\w+)}")
_ABOUT = """Accounts, wallets of credits, and realtime rooms.

Send an access token as `Authorization: Bearer`, or an API key as `X-API-Key`. In every path `me` stands for the caller's
default wallet. Amounts are integers in minor units of an asset; times are RFC 3339 in UTC. Every error is a problem
document (RFC 9457): branch on its `code`. Every answer has an `X-Request-ID`. What moves money takes an `Idempotency-Key`:
with the same key and body it is done once, and `?dry_run=true` decides and answers without keeping anything. Lists are
`{data, next_cursor}`."""
# What an idempotency key looks like, quoted (draft-ietf-httpapi-idempotency-key-header-07) or not.
_KEY_PATTERN = '^("[!#-~]{1,255}"|[!#-~][!-~]{0,254})$'

_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "The id of the request: the client's own (8 to 64 of A-Z a-z 0-9 . _ -), or a new one.",
        "required": True,
    },
    "RateLimit-Policy": {"description": "The tightest policy: requests `q` in `w` seconds."},
    "RateLimit": {"description": "How that policy stands: `r` requests remain, more in `t` seconds."},
    "Retry-After": {"description": "Seconds after which to try again.", "required": True},
    "WWW-Authenticate": {"description": "How to send a token (RFC 6750).", "required": True},
    "Idempotency-Replayed": {"description": "`true`: this was done before, and is answered again as it was."},
    "ETag": {"description": "The version of what is answered.", "required": True},
}
_ERROR_HEADERS = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After", "RateLimit-Policy", "RateLimit"),
    503: ("Retry-After",),
}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "A new one for each thing to do, the same one for each retry of it. Kept for seven days.",
        "schema": {"type": "string", "pattern": _KEY_PATTERN, "maxLength": 257},
        "example": "8f14e45f-ceea-467f-a8f5-2b6c7d9e0a11",
    },
    "If-Match": {
        "name": "If-Match",
        "in": "header",
        "description": "The ETag of the version that is to be changed; without it, whichever there is.",
        "schema": {"type": "string", "pattern": r'^(\*|(W/)?"?[0-9]{1,18}"?)$'},
        "example": '"3"',
    },
}
_SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token of `POST /auth/login`. What is listed with a route are the roles that may.",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "A key of `POST /auth/api-keys`. What is listed with a route is the scope that it needs; its owner needs the role.",
    },
}


def build_document(
    routes: Iterable[Route], events: Iterable[Event] = (), sent: Mapping[str, type[BaseModel]] = MappingProxyType({})
) -> dict[str, Any]:
    """The whole document; `events` are those that clients may send over Socket.IO, `sent` what we send them, by name."""
    return _Builder(list(routes), list(events), sent).document()


def refusals_of(route: Route) -> dict[int, set[str]]:
    """Every code that `route` can be refused with, by status."""
    found: dict[int, set[str]] = defaultdict(set)
    for refusal in (*_known_refusals(route), *route.refuses):
        status, _, code = refusal.partition(" ")
        found[int(status)].add(code)
    return dict(sorted(found.items()))


def _known_refusals(route: Route) -> list[str]:
    """Those that follow from what the route says of itself."""
    # A parameter that comes twice, one that nobody knows.
    known = ["400 malformed-request", "422 validation-failed", "500 internal"]
    if not route.unlimited:
        known += ["403 banned", "429 rate-limited", "503 unavailable"]
    if route.roles:
        known += [f"401 {code}" for code in ("unauthenticated", "token-invalid", "token-expired", "session-revoked", "api-key-invalid")]
        known += ["400 ambiguous-credentials", "403 forbidden", "403 scope-missing"]
    if _PARAMETER.search(route.path):
        known += ["404 not-found"]
    if route.body is not None or route.upload:
        known += ["408 request-timeout", "413 payload-too-large", "415 unsupported-media-type"]
        known += ["422 amount-invalid"] if route.body is not None and "amount" in route.body.model_fields else []
    if route.query is not None and issubclass(route.query, PageQuery):
        known += ["400 invalid-cursor"]
    if _takes_if_match(route):
        known += ["400 if-match-invalid", "412 version-conflict"]
    if route.idempotent:
        known += ["400 idempotency-key-missing", "400 idempotency-key-invalid", "422 idempotency-key-reused"]
        known += ["503 backpressure", "503 outcome-unknown"]
    return known


class _Builder:
    def __init__(self, routes: Sequence[Route], events: Sequence[Event], sent: Mapping[str, type[BaseModel]]) -> None:
        self._routes, self._events, self._sent = routes, events, sent
        models = {model: None for route in routes for model in _models_of(route)}
        models |= dict.fromkeys((Problem, *(event.body for event in events), *sent.values()))
        refs, found = models_json_schema([(model, "validation") for model in models], ref_template=_SCHEMAS + "{model}")
        self._refs = {model: refs[model, "validation"] for model in models}
        self._schemas: dict[str, Any] = found["$defs"]
        self._errors: dict[tuple[int, frozenset[str]], str] = {}
        self._error_responses: dict[str, Any] = {}

    def document(self) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = defaultdict(dict)
        for route in self._routes:
            paths[route.path][route.method.lower()] = self._operation(route)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Credit system",
                "version": VERSION,
                "description": _ABOUT,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": [{"name": tag} for tag in sorted({_tag(route) for route in self._routes})],
            "paths": dict(paths),
            "components": {
                "schemas": self._schemas,
                "responses": self._error_responses,
                "parameters": _PARAMETERS,
                "headers": {name: {**header, "schema": {"type": "string"}} for name, header in _HEADERS.items()},
                "securitySchemes": _SECURITY_SCHEMES,
            },
            "x-socket-events": self._socket_events(),
        }

    def _operation(self, route: Route) -> dict[str, Any]:
        operation: dict[str, Any] = {
            "operationId": _operation_id(route),
            "summary": route.summary,
            "description": _who_may(route),
            "tags": [_tag(route)],
            "security": _security(route),
            "parameters": _parameters(route),
            "responses": {**self._successes(route), **self._failures(route)},
        }
        if route.body is not None:
            operation["requestBody"] = self._body(route.body)
        if route.upload:
            operation["requestBody"] = {"required": True, "content": {route.upload: {"schema": {"type": "string"}}}}
        return operation

    def _body(self, model: type[BaseModel]) -> dict[str, Any]:
        schema = self._refs[model]
        required = any(field.is_required() for field in model.model_fields.values())
        return {"required": required, "content": {JSON: {"schema": schema, "example": example_of(schema, self._schemas)}}}

    def _successes(self, route: Route) -> dict[str, Any]:
        if route.answers is None:
            return {"2XX": {"description": "Not described.", "headers": _headers(route)}}
        return {str(status): self._success(route, status, contents) for status, contents in contents_by_status(route.answers).items()}

    def _success(self, route: Route, status: int, contents: tuple[Content, ...]) -> dict[str, Any]:
        names = ["Idempotency-Replayed"] if route.idempotent else []
        answer: dict[str, Any] = {
            "description": HTTPStatus(status).phrase,
            "headers": _headers(route, *names, *(["ETag"] if route.versioned or status == 304 else [])),
        }
        if contents:
            answer["content"] = dict(self._media(content) for content in contents)
        return answer

    def _media(self, content: Content) -> tuple[str, dict[str, Any]]:
        if isinstance(content, str):
            media_type = content.partition(";")[0]
            return media_type, {"schema": {} if media_type == JSON else {"type": "string"}}
        schema = self._refs[content]
        return JSON, {"schema": schema, "example": example_of(schema, self._schemas)}

    def _failures(self, route: Route) -> dict[str, Any]:
        own = contents_by_status(route.answers) if route.answers is not None else {}
        return {str(status): self._failure(status, codes) for status, codes in refusals_of(route).items() if status not in own}

    def _failure(self, status: int, codes: set[str]) -> dict[str, Any]:
        """A reference to what routes that fail alike have in common."""
        key = (status, frozenset(codes))
        if key not in self._errors:
            name = f"{status}-{sum(known == status for known, _ in self._errors) + 1}"
            self._errors[key] = name
            self._error_responses[name] = _error_response(status, sorted(codes), self._refs[Problem])
        return {"$ref": f"#/components/responses/{self._errors[key]}"}

    def _socket_events(self) -> dict[str, Any]:
        return {
            "description": "Socket.IO at /socket.io, with `auth: {token}`. The server acks each event of a client with "
            "`{ok: true, ...}` or `{ok: false, error: problem}`.",
            "client": {
                event.name: {"payload": self._refs[event.body], "roles": sorted(event.roles), "limit": event.limit}
                for event in sorted(self._events, key=lambda event: event.name)
            },
            "server": {name: {"payload": self._refs[model]} for name, model in self._sent.items()},
        }


def _models_of(route: Route) -> list[type[BaseModel]]:
    contents = [content for each in contents_by_status(route.answers).values() for content in each] if route.answers is not None else []
    return [model for model in (route.body, *contents) if isinstance(model, type)]


def _operation_id(route: Route) -> str:
    return "_".join([route.method.lower(), *(word for word in re.split(r"\W+", route.path) if word)])


def _tag(route: Route) -> str:
    """By the first word of the path; what belongs to the system itself stands under one."""
    first = route.path.split("/")[1]
    return first if first and (route.roles or first == "auth") else "system"


def _who_may(route: Route) -> str:
    if not route.roles:
        return "For everyone, without a token."
    keys = f"API keys need the scope `{route.scope}`." if route.scope is not None else "Not with an API key: sign in."
    return f"For the roles {', '.join(f'`{role}`' for role in sorted(route.roles))}. {keys}"


def _security(route: Route) -> list[dict[str, list[str]]]:
    if not route.roles:
        return []
    keys = [{"apiKey": [route.scope]}] if route.scope is not None else []
    return [{"bearer": sorted(route.roles)}, *keys]


def _parameters(route: Route) -> list[dict[str, Any]]:
    names = _PARAMETER.findall(route.path)
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]
    if route.query is not None:
        found += _query_parameters(route.query)
    if route.idempotent:
        found.append({"$ref": "#/components/parameters/Idempotency-Key"})
    if _takes_if_match(route):
        found.append({"$ref": "#/components/parameters/If-Match"})
    return found


def _takes_if_match(route: Route) -> bool:
    return route.versioned and route.method in ("PATCH", "PUT", "DELETE")


def _query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _without_null(described)}
        for name, described in schema.get("properties", {}).items()
    ]


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter is left out, and never null."""
    plain = {key: value for key, value in schema.items() if key not in ("anyOf", "title") and not (key == "default" and value is None)}
    branches = [branch for branch in schema.get("anyOf", []) if branch != {"type": "null"}]
    return {**plain, **branches[0]} if len(branches) == 1 else {**plain, **({"anyOf": branches} if branches else {})}


def _headers(route: Route, *names: str) -> dict[str, Any]:
    limits = () if route.unlimited else ("RateLimit-Policy", "RateLimit")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *limits, *names)}


def _error_response(status: int, codes: Sequence[str], problem: Mapping[str, Any]) -> dict[str, Any]:
    names = [
        "X-Request-ID",
        *{401: ["WWW-Authenticate"], 429: ["Retry-After", "RateLimit-Policy", "RateLimit"], 503: ["Retry-After"]}.get(status, []),
    ]
    schema = {"allOf": [problem, {"properties": {"status": {"const": status}, "code": {"enum": list(codes)}}}]}
    return {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}",
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": {PROBLEM_JSON: {"schema": schema, "examples": {code: {"value": example_problem(status, code)} for code in codes}}},
    }

"""What a server says of itself in /openapi.json, and whether its answers are so."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs
import requests
from requests.adapters import HTTPAdapter

# What any path and method can be answered with, described or not.
_UNMATCHED = (400, 403, 404, 405, 413, 414, 429, 503)


class _OtherAddress(HTTPAdapter):
    """Asks from an address of its own, so that no limit of the test's is used up by it."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, source_address=("127.0.0.97", 0))


class Contract:
    """An OpenAPI document; `check` fails the test whose answer it does not describe, to the last member."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._paths = [(_pattern(path), path) for path in sorted(document["paths"], key=lambda path: path.count("{"))]
        self._validators: dict[str, Any] = {}
        self._problem = set(document["components"]["schemas"]["Problem"]["properties"])

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """What is said of a request, by its path without the query."""
        for pattern, template in self._paths:
            if pattern.fullmatch(path) and method.lower() in self.document["paths"][template]:
                found: dict[str, Any] = self.document["paths"][template][method.lower()]
                return found
        return None

    def describes(self, method: str, path: str, status: int) -> bool:
        operation = self.operation(method, path)
        return operation is not None and str(status) in operation["responses"]

    def check(self, method: str, path: str, response: requests.Response) -> None:
        """The status, the media type and the content are as described."""
        operation, status = self.operation(method, path), response.status_code
        if operation is None:
            assert status in _UNMATCHED, f"{method} {path}: answered {status}, and is not in /openapi.json"
            return
        name = operation["operationId"]
        described = self._resolved(operation["responses"].get(str(status)))
        assert described is not None, f"{name}: {status} is not described; see answers= and refuses= of its Route: {response.text[:500]}"
        self._check_content(f"{name} {status}", described, response)
        for header in described.get("headers", {}):
            if self.document["components"]["headers"][header].get("required"):
                assert header in response.headers, f"{name}: {status} has no {header}"

    def _check_content(self, name: str, described: dict[str, Any], response: requests.Response) -> None:
        contents = described.get("content", {})
        media_type = response.headers.get("Content-Type", "").partition(";")[0]
        if not contents:
            assert not response.content, f"{name}: is said to have no content"
            return
        assert media_type in contents, f"{name}: {media_type} is not described"
        if media_type not in ("application/json", "application/problem+json"):
            return
        answer = response.json()
        self.check_value(name, contents[media_type]["schema"], answer)
        if media_type == "application/problem+json":
            unknown = set(answer) - self._problem
            assert not unknown, f"{name}: members that Problem (core/web/answers.py) does not list: {unknown}"

    def check_value(self, name: str, schema: dict[str, Any], value: Any) -> None:
        wrong = next(self._validator(json.dumps(schema)).iter_errors(value), None)
        assert wrong is None, f"{name}: {wrong.message} at {list(wrong.instance_path)}; see answers= and refuses= of its Route"

    def _validator(self, schema: str) -> Any:
        if schema not in self._validators:
            whole = {**json.loads(schema), "components": self.document["components"]}
            self._validators[schema] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        return self._validators[schema]

    def _resolved(self, response: dict[str, Any] | None) -> dict[str, Any] | None:
        if response is None or "$ref" not in response:
            return response
        found: dict[str, Any] = self.document["components"]["responses"][response["$ref"].rpartition("/")[2]]
        return found


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)))


def check_event(url: str, name: str, data: Any) -> None:
    """Fail the test when what a server sent to a socket is not as it says; plugins' events have a colon, and need not be described."""
    contract = _known[0] if _known else _contract_of(url)
    described = contract.document["x-socket-events"]["server"].get(name)
    assert described is not None or ":" in name, f"the event {name} is not described: SERVER_EVENTS, or SENDS of the module"
    if described is not None:
        contract.check_value(f"the event {name}", described["payload"], data)


def check_answer(url: str, method: str, response: requests.Response) -> None:
    """Fail the test when a server of ours at `url` gave an answer that its document does not describe."""
    if method in ("HEAD", "OPTIONS") or "X-Request-ID" not in response.headers:
        # The second: gunicorn itself has refused what it could not read.
        return
    path = urlsplit(response.request.url or "").path
    # All servers have the same routes, but for plugins.
    contract = _known[0] if _known and _known[0].describes(method, path, response.status_code) else _contract_of(url)
    contract.check(method, path, response)


_known: list[Contract] = []


@cache
def _contract_of(url: str) -> Contract:
    with requests.Session() as session:
        session.mount("http://", _OtherAddress())
        answer = session.get(f"{url}/openapi.json", timeout=20)
    assert answer.status_code == 200, answer.text
    _known.append(Contract(answer.json()))
    return _known[-1]

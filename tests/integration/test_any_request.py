"""Requests that schemathesis makes up from /openapi.json: no 5xx, what does not fit is refused, every answer is as described."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks as of_openapi

from tests.support.accounts import with_role
from tests.support.app_server import AppServer
from tests.support.client import Client

CHECKS: list[CheckFunction] = [
    not_a_server_error,
    of_openapi.status_code_conformance,
    of_openapi.content_type_conformance,
    of_openapi.response_headers_conformance,
    of_openapi.response_schema_conformance,
    of_openapi.negative_data_rejection,
]
# They end what the other requests of this account live on; their own tests show what they do.
SPARED = {"POST /auth/logout", "POST /auth/logout-all", "DELETE /users/{id}", "PATCH /users/{id}"}
# No JSON: what is wrong with an upload has tests of its own.
UPLOADS = {"POST /ledger/import"}
# A password is hashed in each, slowly and on purpose.
SLOW = {"POST /auth/register", "POST /auth/login", "PUT /auth/password", "POST /users"}
CASES, SOAK_CASES = 3, 200


@pytest.fixture(scope="module")
def document(server: AppServer) -> dict[str, Any]:
    answer: dict[str, Any] = requests.get(f"{server.url}/openapi.json", timeout=20).json()
    return answer


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> dict[str, APIOperation]:
    """Every operation, by method and path; the token is ours to send, and not to be made up."""
    without_tokens = {**document, "components": {name: part for name, part in document["components"].items() if name != "securitySchemes"}}
    for methods in document["paths"].values():
        for operation in methods.values():
            operation.pop("security")
    found = [result.ok() for result in schemathesis.openapi.from_dict(without_tokens).get_all_operations()]
    return {f"{operation.method.upper()} {operation.path}": operation for operation in found}


@pytest.fixture(scope="module", params=["admin", pytest.param("service", marks=pytest.mark.soak), "user"])
def caller(request: pytest.FixtureRequest, server: AppServer, admin: Client) -> Client:
    """Somebody of each role, with credits to spend."""
    made = with_role(admin, request.param)
    if request.param == "user":
        admin.grant(made.wallet()["id"], 10_000)
    return made


@pytest.fixture(scope="module")
def places(caller: Client, admin: Client) -> dict[str, dict[str, str]]:
    """For paths with an id: one that there is, so that more than a 404 is seen."""
    wallet_id = caller.wallet()["id"]
    grant = admin.grant(wallet_id, 1000)
    hold = caller.post(f"/wallets/{wallet_id}/holds", {"amount": 10})
    key = caller.call("POST", "/auth/api-keys", {"name": "any", "scopes": ["wallets:read"]}).json()
    return {
        "/wallets": {"id": wallet_id, "gid": grant["grant"]["id"]},
        "/holds": {"id": hold["id"]},
        "/transactions": {"id": grant["transaction"]["id"]},
        "/users": {"id": caller.user["id"]},
        "/auth/api-keys": {"id": key["id"]},
        "/rate-limits": {"type": "user", "id": caller.user["id"]},
        "/bans": {"type": "user", "id": "u_nobody"},
        "/modules": {"name": "wallet_module"},
    }


def sender(client: Client, operation: APIOperation, mode: GenerationMode, how_many: int, ids: dict[str, str]) -> Callable[[], None]:
    """Sends `how_many` cases of one operation; fails with the first that is answered wrongly."""

    @settings(
        max_examples=how_many,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode, **({"path_parameters": ids} if ids else {})))
    def send(case: Case) -> None:
        response = case.call(base_url=client.url, headers={"Authorization": f"Bearer {client.token}"}, session=client.http)
        if "x-request-id" not in response.headers:
            # gunicorn itself has refused what it does not read.
            assert 400 <= response.status_code < 500
            return
        case.validate_response(response, checks=CHECKS)

    return send


def failures_of(client: Client, operation: APIOperation, mode: GenerationMode, how_many: int, ids: dict[str, str]) -> Iterator[str]:
    try:
        sender(client, operation, mode, how_many, ids)()
    except Unsatisfiable:
        # Nothing of this request can be wrong.
        assert mode is GenerationMode.NEGATIVE
    except (FailureGroup, Exception) as error:
        yield f"{operation.method.upper()} {operation.path} ({mode.value}): {error}"


def ids_in(path: str, known: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    """For a path with an id: made-up ones, and those that there are."""
    found = next((ids for prefix, ids in known.items() if path.startswith(f"{prefix}/{{")), {})
    real = {name: value for name, value in found.items() if f"{{{name}}}" in path}
    return [{}, real] if real else [{}]


def all_failures(
    client: Client, operations: dict[str, APIOperation], known: dict[str, dict[str, str]], mode: GenerationMode, cases: int
) -> list[str]:
    found: list[str] = []
    for name, operation in operations.items():
        variants = ids_in(operation.path, known) if name not in SPARED | UPLOADS else []
        for ids in variants:
            how_many = max(1, cases // (5 if name in SLOW else len(variants)))
            found += failures_of(client, operation, mode, how_many, ids)
    return found


MODES = pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)


@MODES
def test_whatever_is_sent_is_answered_as_described(
    caller: Client, operations: dict[str, APIOperation], places: dict[str, dict[str, str]], mode: GenerationMode
) -> None:
    failures = all_failures(caller, operations, places, mode, CASES)
    assert not failures, "\n\n".join(failures)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@MODES
def test_whatever_is_sent_for_long_is_answered_as_described(
    caller: Client, operations: dict[str, APIOperation], places: dict[str, dict[str, str]], mode: GenerationMode
) -> None:
    failures = all_failures(caller, operations, places, mode, SOAK_CASES)
    assert not failures, "\n\n".join(failures)

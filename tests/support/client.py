"""A REST client of ours, as short as the tests want it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.support.contract import check_answer

PASSWORD = "a rather long passphrase"


def unique(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


@dataclass
class Client:
    """Calls as one user. `call` returns the response as it is; the verbs return what they answer, or fail the test.

    So does an answer that is not as /openapi.json describes it.
    """

    url: str
    token: str = ""
    refresh_token: str = ""
    user: dict[str, Any] = field(default_factory=dict)
    http: requests.Session = field(default_factory=requests.Session)

    def call(self, method: str, path: str, body: Any = None, *, key: str | None = None, **options: Any) -> requests.Response:
        headers = {**({"Authorization": f"Bearer {self.token}"} if self.token else {}), **options.pop("headers", {})}
        if key is not None:
            headers["Idempotency-Key"] = key
        if body is not None:
            options["json"] = body
        response = self.http.request(method, self.url + path, headers=headers, timeout=options.pop("timeout", 20), **options)
        check_answer(self.url, method, response)
        return response

    def get(self, path: str, **options: Any) -> dict[str, Any]:
        return _expect(self.call("GET", path, **options), 200)

    # Accounts

    @classmethod
    def register(cls, url: str, username: str | None = None) -> Client:
        """A new user, signed in."""
        name = username or unique("user")
        client = cls(url)
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        client._adopt(_expect(client.call("POST", "/auth/register", body), 201))
        return client

    @classmethod
    def login(cls, url: str, login: str, password: str = PASSWORD) -> Client:
        client = cls(url)
        client._adopt(_expect(client.call("POST", "/auth/login", {"login": login, "password": password}), 200))
        return client

    @classmethod
    def admin(cls, url: str, secrets_dir: Path) -> Client:
        """The first admin."""
        return cls.login(url, (secrets_dir / "admin_email").read_text().strip(), (secrets_dir / "admin_password").read_text().strip())

    def _adopt(self, answer: dict[str, Any]) -> None:
        self.token, self.refresh_token, self.user = answer["access_token"], answer["refresh_token"], answer["user"]

    # Credits

    def wallet(self, wallet_id: str = "me") -> dict[str, Any]:
        return self.get(f"/wallets/{wallet_id}")

    def grant(self, wallet_id: str, amount: int, **fields: Any) -> dict[str, Any]:
        body = {"amount": amount, **fields}
        return _expect(self.call("POST", f"/wallets/{wallet_id}/grants", body, key=unique("key")), 201)

    def post(self, path: str, body: dict[str, Any] | None = None, status: int = 201, *, key: str | None = None) -> dict[str, Any]:
        """What a money verb answers; the test fails when that is not `status`."""
        return _expect(self.call("POST", path, body or {}, key=key or unique("key")), status)

    def refused(self, path: str, body: dict[str, Any], status: int, code: str) -> dict[str, Any]:
        """The problem that a money verb is refused with."""
        return assert_problem(self.call("POST", path, body, key=unique("key")), status, code)

    def transfer(self, destination: Any, amount: int, *, key: str | None = None, **fields: Any) -> requests.Response:
        body = {"destination": destination, "amount": amount, **fields}
        return self.call("POST", "/transfers", body, key=key or unique("key"))


def _expect(response: requests.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, f"{response.status_code}: {response.text}"
    answer: dict[str, Any] = response.json()
    return answer


def assert_problem(response: requests.Response, status: int, code: str) -> dict[str, Any]:
    """The response is a problem document of that status and code, complete and without a driver's words."""
    assert response.status_code == status, f"{response.status_code}: {response.text}"
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code, problem
    assert {"type", "title", "status", "request_id"} <= set(problem)
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["X-Request-ID"]
    for word in ("Traceback", "pymongo", "redis.", "mongodb://", "/work/", "site-packages"):
        assert word not in response.text
    return problem

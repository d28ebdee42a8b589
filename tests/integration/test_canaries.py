"""Canaries: what clients entrust to us, and our own secrets, are in no log, no Redis value and no MongoDB document."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import requests
from pymongo.database import Database

from tests.support.app_server import AppServer
from tests.support.canaries import in_files, in_mongodb, in_redis, leaks
from tests.support.client import Client, unique
from tests.support.sockets import SocketClient, refusal_of
from tools.local_stack import LocalStack

_PLAIN = ("mongodb_user", "mongodb_analytics_user", "mongodb_admin_user", "vault_role_id")


@dataclass
class Canaries:
    """The words of one journey: `secret` ones may be nowhere, `quiet` ones are kept as data and may be in no log."""

    secret: set[str] = field(default_factory=set)
    quiet: set[str] = field(default_factory=set)

    def word(self, kind: str) -> str:
        made = f"canary{unique(kind).replace('-', '')}"
        self.secret.add(made)
        return made

    def token(self, text: str) -> str:
        # The header of a JWT is the same for all of them.
        self.secret |= set(text.split(".")[1:])
        return text


def accounts(url: str, canaries: Canaries) -> Client:
    """Register, log in (rightly and wrongly), refresh (also twice), change the password, end sessions."""
    name, password, new = canaries.word("user"), canaries.word("password"), canaries.word("newpassword")
    email = f"{canaries.word('mail')}@Example.com"
    headers = {
        "X-Client-Fingerprint": canaries.word("fingerprint"),
        "Cookie": f"session={canaries.word('cookie')}",
    }
    http = requests.Session()
    http.headers.update(headers)
    client = Client(url, http=http)

    def sent(method: str, path: str, body: Any = None, **options: Any) -> Any:
        answer = client.call(method, path, body, **options)
        for kind in ("access_token", "refresh_token"):
            if answer.ok and answer.content and kind in answer.json():
                setattr(client, kind.replace("access_", ""), canaries.token(answer.json()[kind]))
        return answer

    body = {"username": name, "email": email, "password": password}
    assert sent("POST", "/auth/register", body).status_code == 201
    assert sent("POST", "/auth/register", body).status_code == 409
    for login in (name, email, name.upper(), canaries.word("nobody"), f"{canaries.word('nomail')}@example.com"):
        sent("POST", "/auth/login", {"login": login, "password": canaries.word("wrong")})
        sent("POST", "/auth/login", {"login": login, "password": password})
    assert sent("POST", "/auth/login", {"login": email, "password": password}).status_code == 200
    used = client.refresh_token
    assert sent("POST", "/auth/refresh", {"refresh_token": used}).status_code == 200
    assert sent("PUT", "/auth/password", {"current_password": canaries.word("wrong"), "new_password": new}).status_code >= 400
    assert sent("PUT", "/auth/password", {"current_password": password, "new_password": new}).status_code == 204
    for path in ("/auth/me", "/auth/sessions", "/users", f"/users/{name}", f"/users?role={canaries.word('role')}"):
        sent("GET", path)
    client_id = sent("GET", "/auth/me").json()["id"]
    sent("PATCH", f"/users/{client_id}", {"email": f"{canaries.word('othermail')}@example.com"})
    sent("POST", "/auth/refresh", {"refresh_token": used})  # reuse ends the session
    sent("POST", "/auth/refresh", {"refresh_token": canaries.word("badtoken")})
    assert sent("POST", "/auth/login", {"login": name, "password": new}).status_code == 200
    return client


def api_keys(client: Client, canaries: Canaries) -> None:
    """Make one and use it; send wrong ones, and one beside a token."""
    made = client.call("POST", "/auth/api-keys", {"name": canaries.word("keyname"), "scopes": ["wallets:read"]})
    assert made.status_code == 201, made.text
    key = made.json()["key"]
    # Of the whole key the hash is kept: with 256 random bits, that tells nothing.
    canaries.secret.add(key[30:60])
    for sent in (key, canaries.word("apikey"), f"{key[:-1]}x", f"ck_{'0' * 24}_{canaries.word('apikey')}"):
        requests.get(f"{client.url}/wallets/me", headers={"X-API-Key": sent}, timeout=10)
        client.call("GET", "/wallets/me", headers={"X-API-Key": sent})


def money(client: Client, admin: Client, canaries: Canaries) -> None:
    """Grants, transfers, replays and refusals; memos are data, and idempotency keys are only ever kept hashed."""
    key, memo = canaries.word("key"), canaries.word("memo")
    canaries.secret.discard(memo)
    canaries.quiet.add(memo)
    wallet = client.wallet()["id"]
    assert admin.call("POST", f"/wallets/{wallet}/grants", {"amount": 100, "reason": memo}, key=key).status_code == 201
    other = Client.register(client.url)
    for amount in (5, 5, 6, 10**6, 0, "5"):
        body = {"destination": {"username": other.user["username"]}, "amount": amount, "memo": memo}
        client.call("POST", "/transfers", body, key=canaries.word("key") if amount != 5 else key)
    client.call("POST", "/transfers", {"destination": {"username": canaries.word("nobody")}, "amount": 1}, key=canaries.word("key"))
    client.call("POST", f"/wallets/{wallet}/debits", {"amount": 1, "metadata": {"x": memo}}, key=canaries.word("key"))
    client.call("POST", "/transfers", {"amount": 1}, key=f"{canaries.word('key')} not valid")


def bad_requests(url: str, canaries: Canaries) -> None:
    """Everything that is refused before or while it is read."""
    word = canaries.word
    headers = {"Content-Type": "application/json"}
    for body in (
        f'{{"login": "x", "password": "{word("json")}',
        f'{{"{word("name")}": 1}}',
        f'{{"login": {{"$gt": "{word("operator")}"}}, "password": "{word("password")}"}}',
        f'["{word("list")}"]',
        json.dumps({"login": word("large"), "password": word("large") * 100}),
        '{"password": "\ud800'.encode("utf-8", "surrogatepass") + word("surrogate").encode() + b'"}',
        b'{"password": "\xff' + word("bytes").encode() + b'"}',
        '{"a":' * 5000 + f'"{word("deep")}"',
    ):
        for path in ("/auth/login", "/auth/register", "/auth/refresh"):
            requests.post(url + path, body, headers=headers, timeout=10)
    requests.post(f"{url}/auth/login", {"login": "x", "password": word("form")}, timeout=10)
    token = base64.b64encode(f"x:{word('basic')}".encode()).decode()
    for authorization in (
        f"Bearer {word('bearer')}",
        f"Basic {token}",
        word("nothing"),
        f"Bearer eyJ{word('jwt')}.{word('jwt')}.{word('jwt')}",
    ):
        requests.get(f"{url}/auth/me", headers={"Authorization": authorization}, timeout=10)
    for path in (
        f"/reset/{word('path')}",
        f"/auth/me?token={word('query')}",
        f"/users/{word('id')}",
        f"/wallets/{word('id')}?x={word('query')}",
    ):
        for method in ("GET", "POST", "DELETE"):
            requests.request(method, url + path, headers={"X-Request-ID": f"{word('id')} not valid"}, timeout=10)
    for lines in (
        f"GET /?token={word('version')} HTTP/9.9\r\n\r\n",
        f"G@T /{word('method')} HTTP/1.1\r\n\r\n",
        f"GET {word('target')} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nBad {word('header')}: y\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {word('huge') * 3000}\r\n\r\n",
        f"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: {word('length')}\r\n\r\n",
        f"POST /auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz{word('chunk')}\r\n",
        f"GET /socket.io/?EIO={word('eio')}&transport={word('transport')}&token={word('query')} HTTP/1.1\r\nHost: x\r\nOrigin: http://{word('origin')}\r\n\r\n",
    ):
        _raw(url, lines)


def _raw(url: str, text: str) -> None:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as link, suppress(OSError):
        link.sendall(text.encode())
        link.shutdown(socket.SHUT_WR)
        while link.recv(65536):
            pass


def sockets(client: Client, canaries: Canaries) -> None:
    """A connection that is refused, one with its token in the query string too, and messages."""
    for auth in ({"token": canaries.word("sockettoken")}, {"password": canaries.word("auth")}, [canaries.word("auth")]):
        refusal_of(client.url, auth)
    io = SocketClient()
    url = f"{client.url}?token={client.token}&password={canaries.word('query')}"
    io.connect(url, {"token": client.token}, headers=dict(client.http.headers))
    io.call("join_room", {"room": "canaries"})
    io.call("send_message", {"room": "canaries", "data": {"password": canaries.word("message")}})
    io.call("join_room", {"room": canaries.word("room") * 20})
    io.close()


def failures(client: Client, canaries: Canaries, database: Database[dict[str, Any]], fails: Callable[[dict[str, Any]], None]) -> None:
    """A database that fails in ways that nobody foresaw, in the middle of all that."""
    for data in ({"errorCode": 8000}, {"errorCode": 96}, {"closeConnection": True}):
        for commands in (["find", "aggregate"], ["insert"], ["update", "findAndModify"], ["commitTransaction"]):
            fails({"failCommands": commands, **data})
            body = {"login": canaries.word("login"), "password": canaries.word("password")}
            requests.post(f"{client.url}/auth/login", json=body, timeout=10)
            client.call("POST", "/transfers", {"destination": {"username": canaries.word("to")}, "amount": 1}, key=canaries.word("key"))
            account = {
                "username": canaries.word("user")[:32],
                "email": f"{canaries.word('mail')}@example.com",
                "password": canaries.word("pw"),
            }
            requests.post(f"{client.url}/auth/register", json=account, timeout=10)
    database.client.admin.command("configureFailPoint", "failCommand", mode="off")


@pytest.mark.parametrize(("mode", "form"), [("eventlet", "json"), ("gevent", "text")])
def test_no_canary_is_in_a_log_in_redis_or_in_mongodb(
    mode: str, form: str, servers: LocalStack, secrets_dir: Path, tmp_path: Path, database: Database[dict[str, Any]]
) -> None:
    canaries = Canaries()
    own = {path.name: path.read_text().strip() for path in secrets_dir.iterdir() if path.name not in _PLAIN}
    canaries.secret |= {line for text in own.values() for line in text.splitlines()}
    settings = {"ASYNC_MODE": mode, "LOG_FORMAT": form, "LOG_LEVEL": "DEBUG", "LOG_CONSOLE": "DEBUG", "WORKERS": 1}

    def fails(data: dict[str, Any]) -> None:
        database.client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)

    with AppServer(servers.environ, tmp_path, **settings) as server:
        client = accounts(server.url, canaries)
        api_keys(client, canaries)
        money(client, Client.admin(server.url, secrets_dir), canaries)
        bad_requests(server.url, canaries)
        sockets(client, canaries)
        failures(client, canaries, database, fails)
        store = redis.Redis.from_url(servers.environ["REDIS_URL"], password=own["redis_password"])
        live = list(in_redis(store))
        store.close()
        assert client.call("POST", "/auth/logout-all").status_code == 204
        assert client.call("DELETE", f"/users/{client.wallet}").status_code in (401, 403, 404)
    logs = list(in_files(server.log_dir, server.output))
    assert sum(len(content) for _, content in logs) > 20_000
    assert leaks(canaries.secret | canaries.quiet, logs) == []
    assert len(live) > 3
    assert leaks(canaries.secret, live) == []
    assert leaks(canaries.secret, in_files(*(servers.data_dir / "redis").rglob("*.aof"))) == []
    stored = list(in_mongodb(database.client))
    assert "mongodb local.oplog.rs" in dict(stored)
    assert leaks(canaries.quiet, stored), "what is data is found, so what is not would be"
    assert leaks(canaries.secret, stored) == []


def test_the_search_finds_a_canary_in_every_form(tmp_path: Path) -> None:
    word = "canaryUser7f3a91"
    hidden = [
        word.upper(),
        word.encode().hex(),
        base64.b64encode(f"ab{word}cd".encode()).decode(),
        base64.b64encode(f"a{word}".encode()).decode(),
    ]
    hidden += [base64.urlsafe_b64encode(f"{word}?".encode()).decode()]
    for text in hidden:
        assert leaks([word], [("here", f"xx {text} yy".encode())]) == [f"{word!r} in here"]
    assert leaks([word], [("here", b"nothing to see")]) == []

"""Who pays and who receives in the HTTP bench: tokens and wallet ids, made through each app's own door."""

from __future__ import annotations

import secrets
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from pymongo import MongoClient

from bench.naive_transfer import Document, NaiveLedger
from bench.reference_app import DATABASE
from bench.result import BenchBroken
from bench.scenarios import OPENING_BALANCE

PARALLEL = 4  # registrations at once: each hashes a password


@dataclass(frozen=True)
class Accounts:
    """A token for each connection, and the wallets that are paid; no payer is among them."""

    tokens: list[str]
    destinations: list[str]


@dataclass(frozen=True)
class Door:
    """JSON calls to one app; anything but a 2xx is the end of the bench."""

    url: str

    def post(self, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        return self._call("POST", path, headers, body)

    def get(self, path: str, **headers: str) -> dict[str, Any]:
        return self._call("GET", path, headers)

    def _call(self, method: str, path: str, headers: dict[str, str], body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = requests.request(method, self.url + path, json=body, headers=headers, timeout=30)
        if not answer.ok:
            raise BenchBroken(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
        found: dict[str, Any] = answer.json()
        return found


def our_accounts(url: str, secrets_dir: Path, payers: int, payees: int) -> Accounts:
    """Register everybody through POST /auth/register; an admin's grants fund the payers."""
    door = Door(url)
    admin = _admin_token(door, secrets_dir)
    with ThreadPoolExecutor(PARALLEL) as pool:
        paying = list(pool.map(lambda number: _register(door, f"payer-{number:04d}"), range(payers)))
        paid = list(pool.map(lambda number: _register(door, f"payee-{number:04d}"), range(payees)))
        list(pool.map(lambda user: _fund(door, admin, user[1]), paying))
    return Accounts([token for token, _ in paying], [wallet for _, wallet in paid])


def reference_accounts(url: str, mongodb_uri: str, payers: int, payees: int) -> Accounts:
    """Open wallets in the database, and log the payers in."""
    paying, paid = _names("payer", payers), _names("payee", payees)
    client: MongoClient[Document]
    with MongoClient(mongodb_uri) as client:
        NaiveLedger(client, DATABASE).create(dict.fromkeys(paying, OPENING_BALANCE) | dict.fromkeys(paid, 0))
    door = Door(url)
    return Accounts([door.post("/login", {"user": name})["access_token"] for name in paying], paid)


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind}-{number:04d}" for number in range(count)]


def _admin_token(door: Door, secrets_dir: Path) -> str:
    login, password = ((secrets_dir / name).read_text().strip() for name in ("admin_email", "admin_password"))
    token: str = door.post("/auth/login", {"login": login, "password": password})["access_token"]
    return token


def _register(door: Door, name: str) -> tuple[str, str]:
    """Returns the new user's access token and wallet id."""
    body = {"username": name, "email": f"{name}@example.com", "password": secrets.token_urlsafe(24)}
    token = door.post("/auth/register", body)["access_token"]
    return token, door.get("/wallets/me", Authorization=f"Bearer {token}")["id"]


def _fund(door: Door, admin: str, wallet: str) -> None:
    headers = {"Authorization": f"Bearer {admin}", "Idempotency-Key": str(uuid.uuid4())}
    door.post(f"/wallets/{wallet}/grants", {"amount": OPENING_BALANCE}, **headers)

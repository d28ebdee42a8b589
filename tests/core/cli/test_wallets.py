"""`flask wallets`: the same wallets, rules and postings as over HTTP."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.cli.conftest import Run
from tests.support.client import Client, unique

pytestmark = pytest.mark.usefixtures("sound_ledger")
Told = Callable[..., Any]


def test_a_wallet_is_named_by_its_id_or_by_whose_it_is(alice: Client, told: Told, run: Run) -> None:
    wallet = alice.wallet()
    for named in (wallet["id"], alice.user["id"], alice.user["username"], alice.user["email"]):
        assert told("wallets", "show", named) == wallet
    assert told("wallets", "list", "--owner", alice.user["username"])["data"] == [wallet]
    lines = run("wallets", "list", "--owner", alice.user["id"]).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["id", wallet["id"]]
    assert run("wallets", "show", "w_000000000000000000000000").exit_code == 1


def test_credits_are_granted_and_taken_once_for_each_key(alice: Client, told: Told, run: Run) -> None:
    name, key = alice.user["username"], unique("key")
    granted = told("wallets", "grant", name, 100, "--idempotency-key", key, "--reason", "welcome", "--expires-at", "2099-01-01")
    assert told("wallets", "grant", name, 100, "--idempotency-key", key, "--reason", "welcome", "--expires-at", "2099-01-01") == granted
    assert granted["grant"]["expires_at"] == "2099-01-01T00:00:00.000Z"
    assert alice.wallet()["settled"] == 100
    other = run("wallets", "grant", name, 99, "--idempotency-key", key, "--json")
    assert (other.exit_code, json.loads(other.stdout)["code"]) == (1, "idempotency-key-reused")
    taken = run("wallets", "debit", name, 30)
    assert taken.exit_code == 0
    assert taken.stderr.startswith("--idempotency-key cli-")
    assert alice.wallet()["settled"] == 70
    again = run("wallets", "debit", name, 30, *taken.stderr.split())
    assert (again.exit_code, again.stdout) == (0, taken.stdout)
    told("wallets", "debit", name, 30, "--dry-run")
    assert alice.wallet()["settled"] == 70
    refused = run("wallets", "debit", name, 71, "--json")
    assert (refused.exit_code, json.loads(refused.stdout)["available"]) == (1, 70)
    assert run("wallets", "grant", name, 1, "--idempotency-key", "ä").exit_code == 2
    assert run("wallets", "grant", name, 0).exit_code == 1


def test_balance_and_statement_are_those_of_the_api(alice: Client, told: Told, run: Run, tmp_path: Path) -> None:
    name = alice.user["username"]
    for amount in (5, 7):
        told("wallets", "grant", name, amount)
    shown = told("wallets", "balance", name)
    assert {**shown, "as_of": ""} == {**alice.get("/wallets/me/balance"), "as_of": ""}
    assert told("wallets", "balance", name, "--at", "2020-01-01")["settled"] == 0
    rows = [json.loads(line) for line in run("wallets", "statement", name, "--json").stdout.splitlines()]
    assert rows == alice.get("/wallets/me/transactions")["data"][::-1]
    file = tmp_path / "statement.csv"
    assert run("wallets", "statement", name, "--from", "2020-01-01", "--type", "grant", "--output", file).exit_code == 0
    assert [row["delta"] for row in csv.DictReader(io.StringIO(file.read_text()))] == ["5", "7"]
    refused = run("wallets", "statement", name, "--from", "2020-01-02", "--to", "2020-01-01")
    assert (refused.exit_code, "from must be before to" in refused.stderr) == (1, True)


def test_a_wallet_is_opened_limited_frozen_and_closed(alice: Client, told: Told, run: Run) -> None:
    name = alice.user["username"]
    opened = told("wallets", "open", name, "--asset", "GEM", "--credit-limit", 5)
    assert alice.wallet(opened["id"])["credit_limit"] == 5
    assert run("wallets", "open", name, "--asset", "GEM").exit_code == 1
    assert told("wallets", "credit-limit", opened["id"], 9)["available"] == 9
    told("wallets", "debit", opened["id"], 9)
    assert run("wallets", "credit-limit", opened["id"], 8).exit_code == 1
    assert told("wallets", "freeze", opened["id"])["status"] == "frozen"
    assert json.loads(run("wallets", "debit", opened["id"], 1, "--json").stdout)["code"] == "wallet-frozen"
    assert told("wallets", "unfreeze", opened["id"])["status"] == "active"
    assert run("wallets", "close", opened["id"], input="n\n").exit_code == 1
    assert json.loads(run("wallets", "close", opened["id"], "--yes", "--json").stdout)["code"] == "wallet-not-empty"
    told("wallets", "grant", opened["id"], 9)
    assert told("wallets", "close", opened["id"], "--yes")["status"] == "closed"
    assert alice.wallet(opened["id"])["status"] == "closed"

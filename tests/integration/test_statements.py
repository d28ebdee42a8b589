"""A wallet's history as a statement: every row, oldest first, as CSV and as NDJSON."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.support.client import Client


@pytest.fixture
def busy(alice: Client, bob: Client, admin: Client) -> Client:
    """Alice after 121 entries, the last with a memo that somebody else wrote."""
    admin.grant(alice.wallet()["id"], 1000)
    items = [{"op": "debit", "wallet_id": "me", "amount": 1} for _ in range(119)]
    alice.post("/batches", {"atomic": True, "items": items}, 200)
    admin.grant(bob.wallet()["id"], 5)
    bob.transfer(alice.wallet()["id"], 5, memo='=HYPERLINK("x"), "quoted"', reference="r,1")
    return alice


def test_a_statement_has_every_row_in_order(busy: Client) -> None:
    response = busy.call("GET", "/wallets/me/transactions?format=ndjson")
    assert response.headers["Content-Type"] == "application/x-ndjson"
    rows = [json.loads(line) for line in response.text.splitlines()]
    assert [row["seq"] for row in rows] == list(range(1, 122))
    page = busy.get("/wallets/me/transactions?limit=100")["data"]
    assert rows[::-1][:100] == page


def test_a_spreadsheet_reads_it_and_runs_nothing(busy: Client) -> None:
    response = busy.call("GET", "/wallets/me/transactions?format=csv")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert len(rows) == 121
    assert (rows[-1]["delta"], rows[-1]["balance_after"], rows[-1]["reference"]) == ("5", "886", "r,1")
    assert rows[-1]["memo"] == '\'=HYPERLINK("x"), "quoted"'
    assert rows[1]["delta"] == "-1"


def test_a_statement_is_filtered_and_foreign_ones_are_none(busy: Client, bob: Client) -> None:
    rows = busy.call("GET", "/wallets/me/transactions?format=ndjson&type=transfer").text.splitlines()
    assert [json.loads(row)["type"] for row in rows] == ["transfer"]
    assert bob.call("GET", f"/wallets/{busy.wallet()['id']}/transactions?format=csv").status_code == 404
    assert bob.call("GET", "/wallets/me/transactions?format=xls").status_code == 422

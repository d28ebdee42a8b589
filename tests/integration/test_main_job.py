"""The main job: register, receive, send and read credits, over HTTP on real servers."""

from __future__ import annotations

from typing import Any

from pymongo.database import Database

from tests.support.client import Client
from tests.support.ledger import assert_sound


def test_a_registered_user_receives_sends_and_reads_credits(
    admin: Client, alice: Client, bob: Client, database: Database[dict[str, Any]]
) -> None:
    granted = admin.grant(alice.wallet()["id"], 1000, reason="welcome")
    assert granted["grant"]["remaining"] == 1000
    sent = alice.transfer({"username": bob.user["username"]}, 250, memo="thanks")
    assert sent.status_code == 201
    assert alice.wallet()["settled"] == 750
    assert bob.wallet()["settled"] == 250
    rows = bob.get("/wallets/me/transactions")["data"]
    assert [(row["type"], row["delta"], row["balance_after"], row["memo"]) for row in rows] == [("transfer", 250, 250, "thanks")]
    assert_sound(database)

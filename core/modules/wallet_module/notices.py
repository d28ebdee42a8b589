"""What a wallet tells the world of itself; what is in it is told by the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core.modules.wallet_module.schemas import wallet_view
from core.outbox import Notice

WALLET_ACTIVATED, WALLET_FROZEN, WALLET_CLOSED = "wallet.activated", "wallet.frozen", "wallet.closed"
_OF_STATUS = {"active": WALLET_ACTIVATED, "frozen": WALLET_FROZEN, "closed": WALLET_CLOSED}


def notices(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Notice]:
    """The event of a wallet whose status has changed, with the wallet as it is then."""
    if after["status"] != before["status"]:
        yield Notice(_OF_STATUS[after["status"]], after["_id"], {"wallet": wallet_view(after)})

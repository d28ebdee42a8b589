"""What comes in and goes out of the wallet routes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from core.web.models import PageQuery
from utils.clock import rfc3339


class WalletsQuery(PageQuery):
    """`owner_id` is for those who may see other people's wallets."""

    owner_id: str | None = Field(default=None, max_length=64)
    asset: str | None = Field(default=None, max_length=16)


def wallet_view(wallet: dict[str, Any]) -> dict[str, Any]:
    """A wallet document as clients see it; amounts in minor units of its asset."""
    return {
        "id": wallet["_id"],
        "owner_id": wallet["owner_id"],
        "asset": wallet["asset"],
        "settled": wallet["settled"],
        "held": wallet["held"],
        "available": wallet["settled"] + wallet["credit_limit"] - wallet["held"],
        "credit_limit": wallet["credit_limit"],
        "status": wallet["status"],
        "version": wallet["version"],
        "metadata": wallet["metadata"],
        "created_at": rfc3339(wallet["created_at"]),
    }

"""What comes in and goes out of the wallet routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from core.web.answers import Asset, Time, UserId, View, WalletId
from core.web.models import MAX_AMOUNT, Body, Metadata, PageQuery, Text
from utils.clock import rfc3339

CreditLimit = Annotated[int, Field(ge=0, le=MAX_AMOUNT // 2)]


class WalletsQuery(PageQuery):
    """`owner_id` is for those who may see other people's wallets."""

    owner_id: str | None = Field(default=None, max_length=64)
    asset: str | None = Field(default=None, max_length=16)


class WalletBody(Body):
    """A new wallet; `owner_id` and `credit_limit` are for the privileged."""

    asset: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{1,15}$")] = "CREDIT"
    owner_id: Annotated[Text, Field(min_length=1, max_length=64)] | None = None
    credit_limit: CreditLimit = 0
    metadata: Metadata = Field(default_factory=dict)


class WalletPatch(Body):
    """What is to change of a wallet; owners change its metadata, the privileged the rest."""

    status: Literal["active", "frozen", "closed"] | None = None
    credit_limit: CreditLimit | None = None
    metadata: Metadata | None = None


class WalletView(View):
    """Amounts in minor units of `asset`; `available` is `settled` plus `credit_limit` less `held`."""

    id: WalletId
    owner_id: UserId
    asset: Asset
    settled: int
    held: int
    available: int
    credit_limit: int
    status: Literal["active", "frozen", "closed"]
    version: int
    metadata: Metadata
    created_at: Time


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

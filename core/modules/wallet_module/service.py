"""Which wallets there are, and who may see them."""

from __future__ import annotations

from typing import Any

from core.modules.wallet_module.repository import WalletRepository
from core.modules.wallet_module.schemas import WalletsQuery, wallet_view
from core.web.paging import Pager
from core.web.routing import USER, Principal
from tools.error_handling.errors import NotFound
from utils.clock import utc_now
from utils.ids import derived_id

DEFAULT_ASSET = "CREDIT"
ACTIVE = "active"
# Stands for the caller's default wallet in every path.
ME = "me"


class WalletService:
    """Opens and shows wallets. Their balances are only changed by the posting engine."""

    def __init__(self, repository: WalletRepository, pager: Pager) -> None:
        self._repository = repository
        self._pager = pager

    def open_default(self, owner_id: str, session: Any) -> None:
        """Open the default wallet of a new user, in the transaction of `session`."""
        self._repository.insert(new_wallet(owner_id, DEFAULT_ASSET), session)

    def freeze_all(self, owner_id: str, session: Any) -> None:
        """Freeze the wallets of a user who is leaving: what would be sent there could never be spent."""
        self._repository.freeze_all(owner_id, session)

    def resolve(self, principal: Principal, wallet_id: str) -> str:
        """`me` as the id of the caller's default wallet; any other id as it is."""
        return wallet_id_of(principal.user_id) if wallet_id == ME else wallet_id

    def get(self, principal: Principal, wallet_id: str) -> dict[str, Any]:
        """The wallet's document; NotFound when there is none or the caller may not know of it."""
        wallet = self._repository.find(self.resolve(principal, wallet_id))
        if wallet is None or (principal.role == USER and wallet["owner_id"] != principal.user_id):
            raise NotFound("There is no such wallet.")
        return wallet

    def owned(self, wallet_ids: list[str], owner_id: str) -> set[str]:
        """Which of `wallet_ids` belong to `owner_id`."""
        return self._repository.owned(wallet_ids, owner_id)

    def page(self, principal: Principal, query: WalletsQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: the caller's wallets; whoever is more than a user sees everyone's."""
        owner_id = principal.user_id if principal.role == USER else query.owner_id
        filters = {key: value for key, value in (("owner_id", owner_id), ("asset", query.asset)) if value is not None}
        binding = f"wallets:{principal.user_id}:{owner_id}:{query.asset}"
        after = self._pager.position(query.cursor, binding)
        found = self._repository.find_page(filters, after, query.limit + 1)
        return self._pager.page([wallet_view(wallet) for wallet in found], query.limit, binding)


def wallet_id_of(owner_id: str, asset: str = DEFAULT_ASSET) -> str:
    """The id of the one wallet that `owner_id` has in `asset`: it follows from both, so nobody has to look it up."""
    return derived_id("w", owner_id, asset)


def new_wallet(owner_id: str, asset: str) -> dict[str, Any]:
    """An empty wallet's document. `seq` counts its entries, `lots` are its grants that are not used up."""
    now = utc_now()
    return {
        "_id": wallet_id_of(owner_id, asset),
        "owner_id": owner_id,
        "asset": asset,
        "settled": 0,
        "held": 0,
        "credit_limit": 0,
        "status": ACTIVE,
        "version": 0,
        "seq": 0,
        "lots": [],
        "metadata": {},
        "created_at": now,
        "posted_at": now,
    }

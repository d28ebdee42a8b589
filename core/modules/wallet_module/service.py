"""Which wallets there are, and who may see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.modules.wallet_module.notices import notices
from core.modules.wallet_module.repository import WalletRepository
from core.modules.wallet_module.schemas import WalletBody, WalletPatch, WalletsQuery, wallet_view
from core.web.paging import Pager
from core.web.routing import ADMIN, SERVICE, USER, Principal
from tools.error_handling.errors import Conflict, Forbidden, NotFound, Unprocessable, VersionConflict
from utils.clock import utc_now
from utils.ids import derived_id

DEFAULT_ASSET = "CREDIT"
ACTIVE, CLOSED = "active", "closed"
_PRIVILEGED = (SERVICE, ADMIN)
# Stands for the caller's default wallet in every path.
ME = "me"


class WalletService:
    """Opens and shows wallets. Their balances are only changed by the posting engine."""

    def __init__(self, repository: WalletRepository, pager: Pager, user_exists: Callable[[str], bool]) -> None:
        self._repository = repository
        self._user_exists = user_exists
        self._pager = pager
        self._shown: Callable[[dict[str, Any]], dict[str, Any]] = lambda wallet: wallet
        self._tell_owner: Callable[[dict[str, Any]], None] = lambda wallet: None

    def show_as(self, shown: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Have whoever keeps the ledger bring each document up to date before it is shown: holds and grants end by the clock."""
        self._shown = shown

    def tell_owner_by(self, tell: Callable[[dict[str, Any]], None]) -> None:
        """Have whoever pushes balances be given each document that was changed by hand."""
        self._tell_owner = tell

    def open_default(self, owner_id: str, session: Any) -> None:
        """Open the default wallet of a new user, in the transaction of `session`."""
        self._repository.insert(new_wallet(owner_id, DEFAULT_ASSET), session)

    def open(self, principal: Principal, body: WalletBody) -> dict[str, Any]:
        """Open a wallet, for the caller or, by the privileged, for somebody; one for each owner and asset."""
        owner_id = body.owner_id or principal.user_id
        if principal.role not in _PRIVILEGED and (owner_id != principal.user_id or body.credit_limit):
            raise Forbidden("Only a service or an admin may open a wallet for someone else, or with a credit limit.")
        if owner_id != principal.user_id and not self._user_exists(owner_id):
            raise Unprocessable.of_field("owner_id", "there is no such user")
        wallet = {**new_wallet(owner_id, body.asset), "credit_limit": body.credit_limit, "metadata": body.metadata}
        if not self._repository.open(wallet):
            raise Conflict("The owner has a wallet of this asset.", code="wallet-exists", title="Wallet exists", wallet_id=wallet["_id"])
        return wallet

    def change(self, principal: Principal, wallet_id: str, patch: WalletPatch, version: int | None) -> dict[str, Any]:
        """Change what `patch` names, if the wallet is still at `version`; its document."""
        known = self.get(principal, wallet_id)
        if principal.role not in _PRIVILEGED and (patch.status is not None or patch.credit_limit is not None):
            raise Forbidden("Only a service or an admin may change status and credit limit.")
        fields = patch.model_dump(exclude_none=True)

        def changed(stored: dict[str, Any]) -> dict[str, Any]:
            if version is not None and stored["version"] != version:
                raise VersionConflict("The wallet has changed; read it again.", version=stored["version"])
            _refuse_impossible({**self._shown(stored), **fields}, fields)
            # Another limit is another level: whoever keeps the ledger looks at the wallet soon, and its alerts with it.
            looked_at = {"next_event_at": utc_now()} if "credit_limit" in fields and stored.get("alerts") else {}
            return {**fields, **looked_at}

        wallet = self.change_document(known["_id"], changed)
        self._tell_owner(wallet)
        return wallet

    def change_document(self, wallet_id: str, changed: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Set what `changed` makes of the stored document of a wallet that exists, all at one point in time; the new document."""
        wallet = self._repository.change(wallet_id, changed, lambda before, after: notices(self._shown(before), self._shown(after)))
        assert wallet is not None, "wallets are never removed"
        return self._shown(wallet)

    def freeze_all(self, owner_id: str, session: Any) -> None:
        """Freeze the wallets of a user who is leaving: what would be sent there could never be spent."""
        self._repository.freeze_all(owner_id, session, notices)

    def resolve(self, principal: Principal, wallet_id: str) -> str:
        """`me` as the id of the caller's default wallet; any other id as it is."""
        return wallet_id_of(principal.user_id) if wallet_id == ME else wallet_id

    def get(self, principal: Principal, wallet_id: str) -> dict[str, Any]:
        """The wallet's document; NotFound when there is none or the caller may not know of it."""
        wallet = self._repository.find(self.resolve(principal, wallet_id))
        if wallet is None or (principal.role == USER and wallet["owner_id"] != principal.user_id):
            raise NotFound("There is no such wallet.")
        return self._shown(wallet)

    def stored(self, wallet_id: str) -> dict[str, Any]:
        """The document of a wallet that exists, as it is written."""
        wallet = self._repository.find(wallet_id)
        assert wallet is not None
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
        return self._pager.page([wallet_view(self._shown(wallet)) for wallet in found], query.limit, binding)


def _refuse_impossible(wallet: dict[str, Any], fields: dict[str, Any]) -> None:
    """A limit stays above what is used of it, and a wallet is empty when it is closed."""
    used = wallet["held"] - wallet["settled"]
    if "credit_limit" in fields and fields["credit_limit"] < used:
        raise Unprocessable.of_field("credit_limit", f"must be at least {used}, which is in use", code="credit-limit-in-use")
    if fields.get("status") == CLOSED and (wallet["settled"] or wallet["held"] or wallet["lots"]):
        raise Conflict("Only an empty wallet can be closed.", code="wallet-not-empty", title="Wallet not empty")


def wallet_id_of(owner_id: str, asset: str = DEFAULT_ASSET) -> str:
    """The id of the one wallet that `owner_id` has in `asset`: it follows from both, so nobody has to look it up."""
    return derived_id("w", owner_id, asset)


def new_wallet(owner_id: str, asset: str) -> dict[str, Any]:
    """An empty wallet's document. `seq` counts its entries, `lots` are its grants that are not used up, `holds` its open ones."""
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
        "holds": [],
        "alerts": [],
        "next_event_at": None,
        "metadata": {},
        "created_at": now,
        "posted_at": now,
    }

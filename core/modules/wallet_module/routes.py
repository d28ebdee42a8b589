"""The wallet routes."""

from __future__ import annotations

from core.modules.wallet_module.schemas import WalletsQuery, wallet_view
from core.modules.wallet_module.service import WalletService
from core.web.routing import EVERYONE, Answer, Call, Route

_READ = "wallets:read"


def wallet_routes(service: WalletService) -> tuple[Route, ...]:
    """The module's routes, with handlers that call `service`."""

    def index(call: Call) -> Answer:
        return Answer(service.page(call.caller, call.query))

    def show(call: Call) -> Answer:
        wallet = wallet_view(service.get(call.caller, call.params["id"]))
        return Answer(wallet, headers={"ETag": f'"{wallet["version"]}"'})

    return (
        Route("GET", "/wallets", index, EVERYONE, "The caller's wallets", query=WalletsQuery, scope=_READ),
        Route("GET", "/wallets/{id}", show, EVERYONE, "A wallet and its balance", scope=_READ),
    )

"""The wallet routes."""

from __future__ import annotations

from typing import Any

from core.modules.wallet_module.schemas import WalletBody, WalletPatch, WalletsQuery, WalletView, wallet_view
from core.modules.wallet_module.service import WalletService
from core.web.answers import Page
from core.web.routing import EVERYONE, WRITERS, Answer, Call, Route
from tools.error_handling.errors import MalformedRequest

_READ, _WRITE = "wallets:read", "wallets:write"


def wallet_routes(service: WalletService) -> tuple[Route, ...]:
    """The module's routes, with handlers that call `service`."""

    def index(call: Call) -> Answer:
        return Answer(service.page(call.caller, call.query))

    def show(call: Call) -> Answer:
        return _answer(service.get(call.caller, call.params["id"]))

    def create(call: Call) -> Answer:
        return _answer(service.open(call.caller, call.body), 201)

    def change(call: Call) -> Answer:
        return _answer(service.change(call.caller, call.params["id"], call.body, _version(call.if_match)))

    return (
        Route("GET", "/wallets", index, EVERYONE, "The caller's wallets", query=WalletsQuery, scope=_READ, answers=Page[WalletView]),
        Route(
            "POST",
            "/wallets",
            create,
            WRITERS,
            "Open a wallet",
            body=WalletBody,
            scope=_WRITE,
            answers={201: WalletView},
            refuses=("409 wallet-exists",),
            versioned=True,
        ),
        Route("GET", "/wallets/{id}", show, EVERYONE, "A wallet and its balance", scope=_READ, answers=WalletView, versioned=True),
        Route(
            "PATCH",
            "/wallets/{id}",
            change,
            WRITERS,
            "Change a wallet's status, credit limit or metadata",
            body=WalletPatch,
            scope=_WRITE,
            answers=WalletView,
            refuses=("409 wallet-not-empty", "422 credit-limit-in-use"),
            versioned=True,
        ),
    )


def _answer(wallet: dict[str, Any], status: int = 200) -> Answer:
    return Answer(wallet_view(wallet), status, {"ETag": f'"{wallet["version"]}"'})


def _version(if_match: str) -> int | None:
    """The version that an If-Match header names; None for any."""
    if if_match in ("", "*"):
        return None
    try:
        return int(if_match.removeprefix("W/").strip('"'))
    except ValueError as error:
        raise MalformedRequest("If-Match: send the ETag of the wallet.", code="if-match-invalid") from error

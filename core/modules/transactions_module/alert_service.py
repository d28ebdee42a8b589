"""Which alerts a wallet has; they fire where its balance changes, in the ledger itself."""

from __future__ import annotations

from dataclasses import asdict
from operator import itemgetter
from typing import Any

from core.modules.transactions_module import errors
from core.modules.transactions_module.alerts import MAX_ALERTS, SETTLED, Alert
from core.modules.transactions_module.repository import to_wallet
from core.modules.transactions_module.schemas import AlertBody, alert_view
from core.modules.wallet_module.service import WalletService
from core.web.models import PageQuery
from core.web.paging import Pager
from core.web.routing import Principal
from utils.clock import utc_now
from utils.ids import new_id


class AlertService:
    """Sets, shows and removes the alerts of wallets that the caller may see."""

    def __init__(self, wallets: WalletService, pager: Pager) -> None:
        self._wallets = wallets
        self._pager = pager

    def set(self, principal: Principal, wallet_id: str, body: AlertBody) -> dict[str, Any]:
        """A new alert. Where the level is beyond the threshold already, it first has to come back."""
        alert_id, now = new_id("al"), utc_now()

        def changed(stored: dict[str, Any]) -> dict[str, Any]:
            alerts = _alerts(stored)
            if len(alerts) >= MAX_ALERTS:
                raise errors.too_many_alerts(MAX_ALERTS)
            wallet = to_wallet(stored)
            level = wallet.settled if body.on == SETTLED else wallet.available
            alert = Alert(alert_id, body.on, body.direction, body.threshold, body.rearm_margin, armed=True, level=level, created_at=now)
            # What the clock has done and nobody has written down yet is noticed at the next look, like any other change.
            return {"alerts": [*alerts, {**asdict(alert), "armed": not alert.is_beyond(level)}]}

        wallet = self._wallets.change_document(self._wallets.get(principal, wallet_id)["_id"], changed)
        return next(alert_view(alert) for alert in wallet["alerts"] if alert["alert_id"] == alert_id)

    def page(self, principal: Principal, wallet_id: str, query: PageQuery) -> dict[str, Any]:
        """`{data, next_cursor}`: a wallet's alerts, by id."""
        wallet = self._wallets.get(principal, wallet_id)
        binding = f"alerts:{principal.user_id}:{wallet['_id']}"
        after = self._pager.position(query.cursor, binding) or ""
        views = sorted((alert_view(alert) for alert in _alerts(wallet)), key=itemgetter("id"))
        return self._pager.page([view for view in views if view["id"] > after], query.limit, binding)

    def remove(self, principal: Principal, wallet_id: str, alert_id: str) -> None:
        """Forget an alert; NotFound when there is none."""

        def changed(stored: dict[str, Any]) -> dict[str, Any]:
            alerts = _alerts(stored)
            others = [alert for alert in alerts if alert["alert_id"] != alert_id]
            if len(others) == len(alerts):
                raise errors.alert_not_found()
            return {"alerts": others}

        self._wallets.change_document(self._wallets.get(principal, wallet_id)["_id"], changed)


def _alerts(document: dict[str, Any]) -> list[dict[str, Any]]:
    # Wallets that were opened by an earlier release have no list of them.
    found: list[dict[str, Any]] = document.get("alerts", [])
    return found

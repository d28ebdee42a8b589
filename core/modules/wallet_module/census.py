"""What all wallets hold together, as metrics by asset."""

from __future__ import annotations

from typing import Any

from core import metrics
from core.census import Figures
from core.modules.wallet_module.repository import WalletRepository

# Each asset costs series in every worker. Only who may issue credits can bring another one up.
_ASSETS = 50
_STATES = ("settled", "held")


class WalletSums:
    """`count` and `show` for a Census."""

    def __init__(self, repository: WalletRepository) -> None:
        self._repository = repository
        self._shown: set[str] = set()

    def count(self) -> dict[str, Any]:
        """`{assets: {asset: {wallets, settled, held}}}`; Unavailable."""
        return {"assets": {row.pop("_id"): row for row in self._repository.sums(_ASSETS)}}

    def show(self, figures: Figures) -> None:
        """Set the metrics; of an asset that nobody holds any more, to nothing."""
        assets = figures["assets"]
        for asset in self._shown.difference(assets):
            self._set(asset, dict.fromkeys(("wallets", *_STATES), 0))
        for asset, sums in assets.items():
            self._set(asset, sums)
        self._shown.update(assets)

    @staticmethod
    def _set(asset: str, sums: Figures) -> None:
        metrics.WALLETS.labels(asset).set(sums["wallets"])
        for state in _STATES:
            metrics.WALLET_BALANCE.labels(asset, state).set(sums[state])

"""Dynamic secrets of Vault: credentials that it makes for us, on a lease that is renewed, replaced and given back."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from hvac.exceptions import Forbidden, InvalidRequest

from core import metrics
from core.managers.vault_session import VAULT_ERRORS, VaultSession, renewal_due, retry_due
from tools.logger.custom_logger import custom_log

_Key = tuple[str, tuple[tuple[str, Any], ...]]


@dataclass
class _Lease:
    """Times are of `time.monotonic`; `ttl` is what the lease was made for, in seconds."""

    id: str
    data: dict[str, Any]
    ttl: float
    renewable: bool
    token_number: int
    ends_at: float
    due_at: float
    failures: int = 0


class VaultLeases:
    """The leased secrets in use, by path and parameters. Raises what `VaultSession.call` raises."""

    def __init__(self, session: VaultSession) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._leases: dict[_Key, _Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, path: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """The secret under a lease that lives; a new one where there is none. ValueError when Vault gives no lease for it."""
        key = (path, tuple(sorted(parameters.items())))
        lease = self._leases.get(key)
        if lease is None or time.monotonic() >= lease.ends_at:
            lease = self._replace(key, lease)
        return dict(lease.data)

    def keep_alive(self) -> None:
        """Renew what is due, and replace what cannot be renewed any further."""
        for key, lease in list(self._leases.items()):
            # What was leased under a former token ends with that one.
            outlived = lease.token_number != self._session.token_number and not lease.failures
            if time.monotonic() < lease.due_at and not outlived:
                continue
            try:
                if not self._renew(lease):
                    self._replace(key, lease)
            except VAULT_ERRORS as error:
                lease.failures += 1
                lease.due_at = retry_due(lease.failures)
                metrics.VAULT_REFRESH_FAILURES.labels("lease").inc()
                custom_log("a vault lease cannot be renewed", level="WARNING", path=key[0], error=type(error).__name__)

    def revoke(self) -> None:
        """Give everything back; what Vault does not take now ends by itself."""
        leases, self._leases = self._leases, {}
        try:
            for lease in leases.values():
                self._session.client.sys.revoke_lease(lease.id)
        except VAULT_ERRORS as error:
            custom_log("vault leases were not revoked", level="WARNING", error=type(error).__name__)

    def _replace(self, key: _Key, old: _Lease | None) -> _Lease:
        """A new lease instead of `old`, made once however many ask; the old one stays good for who still uses it."""
        with self._lock:
            found = self._leases.get(key)
            if found is None or found is old:
                found = self._leases[key] = self._fetch(*key)
            return found

    def _fetch(self, path: str, parameters: tuple[tuple[str, Any], ...]) -> _Lease:
        address = f"/v1/{path}"
        if parameters:
            answer = self._session.call(lambda client: client.adapter.post(address, json=dict(parameters)))
        else:
            answer = self._session.call(lambda client: client.adapter.get(address))
        if not answer["lease_id"]:
            raise ValueError(f"{path}: no lease")
        ttl, number = answer["lease_duration"], self._session.token_number
        ends_at = time.monotonic() + ttl
        return _Lease(answer["lease_id"], answer["data"], ttl, answer["renewable"], number, ends_at, renewal_due(ttl))

    def _renew(self, lease: _Lease) -> bool:
        """Whether it lives on for about as long as it did at first."""
        if not lease.renewable or lease.token_number != self._session.token_number:
            return False
        try:
            answer = self._session.call(lambda client: client.sys.renew_lease(lease.id))
        except (InvalidRequest, Forbidden):
            return False
        lease.ends_at = time.monotonic() + answer["lease_duration"]
        lease.due_at = renewal_due(answer["lease_duration"])
        lease.failures = 0
        return bool(answer["lease_duration"] >= lease.ttl * 2 / 3)

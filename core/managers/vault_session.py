"""How the VaultManager reaches Vault: one client, its log-in, and a token that is renewed before it ends."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import hvac
import requests
from hvac.adapters import JSONAdapter
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, VaultError

from core import metrics
from core.managers.vault_handover import VaultHandover
from tools.logger.custom_logger import custom_log
from utils import deadline

if TYPE_CHECKING:
    from core.managers.app_manager import AppManager

VAULT_ERRORS = (VaultError, requests.RequestException)
_HEALTH_SECONDS = 1.0
_RETRY_SECONDS, _RETRY_MAX_SECONDS = 1.0, 30.0
# Sealed or not initialised is an answer, too.
_ALWAYS_ANSWER = {"standbyok": "true", "perfstandbyok": "true", "sealedcode": "200", "uninitcode": "200"}

T = TypeVar("T")


class WrappingTokenSpent(VaultError):
    """The wrapping token of the secret id has been used or has expired."""


def renewal_due(ttl: float) -> float:
    """When (`time.monotonic`) what lives `ttl` seconds from now is to be renewed: after two thirds."""
    return time.monotonic() + ttl * 2 / 3


def retry_due(failures: int) -> float:
    """When to try again after so many failures in a row: 1 s, 2 s ... 30 s, less up to half by chance."""
    pause: float = min(_RETRY_SECONDS * 2 ** (failures - 1), _RETRY_MAX_SECONDS)
    return time.monotonic() + pause * random.uniform(0.5, 1)  # noqa: S311  spreads the workers, hides nothing


class _Adapter(JSONAdapter):
    """Its time-out is cut from the deadline of the request that waits for it."""

    def request(self, *args: Any, **kwargs: Any) -> Any:
        limit = kwargs.pop("timeout", self._kwargs["timeout"])
        with metrics.VAULT_SECONDS.time():
            return super().request(*args, timeout=min(limit, deadline.remaining(limit)), **kwargs)


class VaultSession:
    """`call` for everything that needs a token; `keep_alive` from time to time."""

    def __init__(self, app_manager: AppManager) -> None:
        self._app_manager = app_manager
        config = app_manager.config
        self.address: str = config["VAULT_ADDR"]
        # A token that hvac would find in the environment or in somebody's home is not ours.
        self.client = hvac.Client(url=self.address, token="", timeout=config["VAULT_TIMEOUT"], adapter=_Adapter)
        self._handover = VaultHandover(config["VAULT_HANDOVER_FD"])
        self._lock = threading.Lock()
        self._unwrapped: dict[str, str] = {}
        self._ttl = 0.0
        self._renewable = False
        self._due_at = self._ends_at = float("inf")
        # Grows with every new token: what was leased under the one before ends with it.
        self.token_number = 0
        self.renewal_failures = 0
        self.failing = False
        self.answered_at = time.monotonic()

    @property
    def seconds_left(self) -> float:
        """Until the token ends."""
        return max(0.0, self._ends_at - time.monotonic())

    @property
    def seconds_silent(self) -> float:
        """Since Vault last answered."""
        return time.monotonic() - self.answered_at

    def call(self, request: Callable[[hvac.Client], T]) -> T:
        """What `request(client)` gives, after a new log-in when our token has ended; raises one of VAULT_ERRORS."""
        try:
            answer = self._call_signed_in(request)
        except (InvalidPath, InvalidRequest, Forbidden):
            # It is there, if not with what we want.
            self._answered()
            raise
        except VAULT_ERRORS:
            self.failing = True
            raise
        self._answered()
        return answer

    def sign_in(self, ended: str | None = None) -> None:
        """A new token: the one that another process of ours has got meanwhile, or one by AppRole.

        `ended`: the token that it is to replace; nothing is done when another caller has replaced it before.
        """
        with self._lock:
            if ended is not None and self.client.token != ended:
                return
            if not self._adopt():
                self._log_in()

    def keep_alive(self) -> None:
        """Renew the token when it is time; one that cannot be renewed further is replaced."""
        metrics.VAULT_TOKEN_TTL.labels("approle").set(self.seconds_left)
        if time.monotonic() < self._due_at:
            return
        token = self.client.token
        try:
            if not self._renew():
                self.sign_in(token)
        except VAULT_ERRORS as error:
            self.renewal_failures += 1
            self._due_at = retry_due(self.renewal_failures)
            metrics.VAULT_REFRESH_FAILURES.labels("token").inc()
            custom_log("the vault token cannot be renewed", level="WARNING", error=type(error).__name__)
        else:
            self.renewal_failures = 0

    def health(self) -> dict[str, Any]:
        """What `sys/health` says; raises one of VAULT_ERRORS. Bounded more tightly than other calls: someone waits for it."""
        limit = min(_HEALTH_SECONDS, self._app_manager.config["VAULT_TIMEOUT"])
        answer = self.client.adapter.get("/v1/sys/health", params=_ALWAYS_ANSWER, timeout=limit, raise_exception=False)
        if not isinstance(answer, dict):
            raise VaultError("no health in the answer")
        return answer

    def pool(self) -> dict[str, int]:
        """`{opened, requests}` of the connections to Vault."""
        manager = self.client.adapter.session.get_adapter(self.address).poolmanager
        pools = [manager.pools.get(key) for key in manager.pools.keys()]  # noqa: SIM118  it cannot be iterated, on purpose
        pools = [pool for pool in pools if pool is not None]
        return {"opened": sum(pool.num_connections for pool in pools), "requests": sum(pool.num_requests for pool in pools)}

    def close(self) -> None:
        """Give the token back, unless others use it too, and close the connections."""
        try:
            if self.client.token and not self._handover.shared and not self.failing:
                self.client.auth.token.revoke_self()
        except VAULT_ERRORS as error:
            custom_log("the vault token was not revoked", level="WARNING", error=type(error).__name__)
        finally:
            self.client.adapter.close()

    def _call_signed_in(self, request: Callable[[hvac.Client], T]) -> T:
        token = self.client.token
        try:
            return request(self.client)
        except Forbidden:
            # The same answer for what we may not do and for a token that has ended, which another caller may have replaced by now.
            if self.client.token == token and self._lives(token):
                raise
            self.sign_in(token)
            return request(self.client)

    def _answered(self) -> None:
        self.failing = False
        self.answered_at = time.monotonic()

    def _lives(self, token: str) -> dict[str, Any] | None:
        """What Vault knows of `token`, if it is a valid one."""
        try:
            known: dict[str, Any] = self._client_with(token).auth.token.lookup_self()["data"]
        except Forbidden:
            return None
        return known

    def _client_with(self, token: str) -> hvac.Client:
        """Our connections under another token."""
        timeout, session = self._app_manager.config["VAULT_TIMEOUT"], self.client.adapter.session
        return hvac.Client(url=self.address, token=token, timeout=timeout, adapter=_Adapter, session=session)

    def _adopt(self) -> bool:
        token = self._handover.read().get("token")
        if not token or token == self.client.token:
            return False
        known = self._lives(token)
        if known is None:
            return False
        self._hold(token, known["ttl"], known["creation_ttl"], known["renewable"])
        return True

    def _log_in(self) -> None:
        config = self._app_manager.config
        secret_id = self._secret_id(config["VAULT_WRAPPED_SECRET_ID"]) or config["VAULT_SECRET_ID"]
        answer = self.client.auth.approle.login(role_id=config["VAULT_ROLE_ID"], secret_id=secret_id, use_token=False)["auth"]
        self._hold(answer["client_token"], answer["lease_duration"], answer["lease_duration"], answer["renewable"])
        self._handover.write(token=answer["client_token"], **self._unwrapped)

    def _secret_id(self, wrapped: str | None) -> str | None:
        """What is in `wrapped`: it can be unwrapped once, so that what comes out is kept, and known to our other processes."""
        if not wrapped:
            return None
        for known in (self._unwrapped, self._handover.read()):
            if known.get("wrapped") == wrapped:
                return known["secret_id"]
        try:
            answer = self._client_with(wrapped).sys.unwrap()
        except (InvalidRequest, Forbidden) as error:
            raise WrappingTokenSpent from error
        self._unwrapped = {"wrapped": wrapped, "secret_id": answer["data"]["secret_id"]}
        return self._unwrapped["secret_id"]

    def _renew(self) -> bool:
        """Whether the token lives on for about as long as it did at first; shortly before its maximum it no longer can."""
        if not self._renewable:
            return False
        try:
            answer = self.client.auth.token.renew_self()["auth"]
        except Forbidden:
            return False
        self._ends_at = _end(answer["lease_duration"])
        if answer["lease_duration"] < self._ttl * 2 / 3:
            return False
        self._due_at = renewal_due(answer["lease_duration"])
        return True

    def _hold(self, token: str, left: float, ttl: float, renewable: bool) -> None:
        self.client.token = token
        self.token_number += 1
        self._ttl, self._renewable = ttl, renewable
        self._ends_at = _end(left)
        self._due_at = renewal_due(left) if left else float("inf")


def _end(ttl: float) -> float:
    """When what lives `ttl` seconds ends; 0 stands for never."""
    return time.monotonic() + ttl if ttl else float("inf")

"""One attempt to deliver: connects only to addresses that were checked just before, and is bounded in time and in what it reads."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakSet

import certifi
from urllib3 import BaseHTTPResponse, Retry, Timeout
from urllib3.exceptions import ConnectTimeoutError, HTTPError, InvalidHeader, NewConnectionError, SSLError, TimeoutError

from core.modules.webhooks_module.targets import Target
from core.services.addresses import Address, Endpoint, Resolve, resolve_host
from utils.green import TimeLimitReached, time_limit

# Of what a receiver answers nothing is kept; what is short is read, so that its connection can serve the next delivery.
_READ_BYTES = 65_536
_CONNECT_SECONDS = 3.0
_ADDRESSES_TRIED = 3
_ADDRESSES_KEPT = 64
_CONNECTIONS = 8
# Names are looked up on threads that password hashes need, too; one that never answers may not take them all.
_LOOK_UPS_AT_ONCE = 4
_LOOK_UP_KEPT_SECONDS = 30.0
_LOOK_UPS_KEPT = 1024

DNS, ADDRESS, TIMEOUT, TLS, CONNECTION, PROTOCOL = "dns", "address", "timeout", "tls", "connection", "protocol"
_OK, _REDIRECT = 200, 300


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of it: a status code, or one of the errors above. `seconds` it took; `retry_after`: seconds, None when not said."""

    status_code: int | None
    error: str | None
    seconds: float
    retry_after: float | None = None

    @property
    def arrived(self) -> bool:
        return self.status_code is not None and _OK <= self.status_code < _REDIRECT


class _NoAddress(Exception):
    """There is nothing to connect to; the text is one of the errors above."""


_FAILURES = (HTTPError, OSError, TimeLimitReached, ValueError, _NoAddress)


class Sender:
    """Posts bodies. `private`: to our own network, too; `seconds`: for a whole attempt. `close` breaks off what is on its way."""

    def __init__(
        self, *, private: bool, seconds: float, resolve: Resolve = resolve_host, make_tls: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        self._private = private
        self._seconds = seconds
        self._resolve = resolve
        self._make_tls = make_tls or (lambda: ssl.create_default_context(cafile=certifi.where()))
        self._lock = threading.Lock()
        self._addresses: OrderedDict[tuple[Endpoint, str], Address] = OrderedDict()
        self._look_ups = threading.BoundedSemaphore(_LOOK_UPS_AT_ONCE)
        self._found: OrderedDict[tuple[str, int], tuple[float, list[str] | None]] = OrderedDict()
        self._sockets: WeakSet[Any] = WeakSet()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return self._make_tls()

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        """Deliver `body` to `url`; whatever goes wrong is in the answer, and never the URL."""
        started = time.monotonic()
        try:
            with time_limit(self._seconds):
                response = self._ask(Target.of(url, private=self._private), headers, body, started + self._seconds)
                status, retry_after = response.status, _retry_after(response)
                self._dispose_of(response, started + self._seconds)
        except _FAILURES as error:
            return Attempt(None, _error_of(error), time.monotonic() - started)
        return Attempt(status, None, time.monotonic() - started, retry_after)

    def close(self) -> None:
        """Break off all attempts, and close all connections."""
        with self._lock:
            addresses, sockets = list(self._addresses.values()), list(self._sockets)
            self._addresses.clear()
        for each in sockets:
            with suppress(OSError, ValueError):
                each.shutdown(socket.SHUT_RDWR)
        for address in addresses:
            address.pool.close()

    def _ask(self, target: Target, headers: Mapping[str, str], body: bytes, ends_at: float) -> BaseHTTPResponse:
        """The answer of the first address of the target that takes a connection."""
        *others, last = self._addresses_of(target)[:_ADDRESSES_TRIED]
        for ip in others:
            # Nothing was sent to one that cannot be connected to.
            with suppress(NewConnectionError, ConnectTimeoutError):
                return self._exchange(target, ip, headers, body, ends_at)
        return self._exchange(target, last, headers, body, ends_at)

    def _exchange(self, target: Target, ip: str, headers: Mapping[str, str], body: bytes, ends_at: float) -> BaseHTTPResponse:
        seconds = max(0.05, ends_at - time.monotonic())
        return self._address(target.endpoint, ip).pool.urlopen(
            "POST",
            target.path,
            body=body,
            headers={**headers, "Host": target.endpoint.netloc, "Accept-Encoding": "identity"},
            retries=False,
            redirect=False,
            timeout=Timeout(connect=min(_CONNECT_SECONDS, seconds), read=seconds),
            preload_content=False,
            decode_content=False,
        )

    def _addresses_of(self, target: Target) -> list[str]:
        """Checked addresses of the target, from a look-up of just now."""
        endpoint = target.endpoint
        key = (endpoint.host, endpoint.port)
        with self._lock:
            until, found = self._found.get(key, (0.0, None))
        if time.monotonic() >= until:
            with self._look_ups:
                try:
                    found = target.addresses(self._resolve, private=self._private)
                except OSError:
                    found = None
            with self._lock:
                self._found[key] = (time.monotonic() + _LOOK_UP_KEPT_SECONDS, found)
                self._found.move_to_end(key)
                if len(self._found) > _LOOK_UPS_KEPT:
                    self._found.popitem(last=False)
        if not found:
            raise _NoAddress(DNS if found is None else ADDRESS)
        return found

    def _address(self, endpoint: Endpoint, ip: str) -> Address:
        """The pool of connections to `ip`, whose name, certificate and Host header are the endpoint's."""
        with self._lock:
            address = self._addresses.get((endpoint, ip))
            if address is None:
                address = self._addresses[endpoint, ip] = Address(endpoint, ip, _CONNECTIONS, 0.0, lambda: self._tls)
                address.pool.block = False
                address.pool.ConnectionCls = _tracked(address.pool.ConnectionCls, self._sockets)
            self._addresses.move_to_end((endpoint, ip))
            oldest = self._addresses.popitem(last=False)[1] if len(self._addresses) > _ADDRESSES_KEPT else None
        if oldest is not None:
            oldest.pool.close()
        return address

    @staticmethod
    def _dispose_of(response: BaseHTTPResponse, ends_at: float) -> None:
        left = _READ_BYTES
        try:
            while left > 0 and time.monotonic() < ends_at and (chunk := response.read1(left)):
                left -= len(chunk)
            whole = left > 0 and time.monotonic() < ends_at
        except (HTTPError, OSError, ValueError):
            # It has answered; how it ends its answer is its own affair.
            whole = False
        if whole:
            response.release_conn()
        else:
            response.close()


def _tracked(kind: Any, sockets: WeakSet[Any]) -> Any:
    """The class of connections `kind`, but that their sockets are known while they live."""

    class Connection(kind):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    return Connection


def _error_of(error: BaseException) -> str:
    match error:
        case _NoAddress():
            return str(error)
        case ValueError():
            # The URL was taken under other rules than those of now.
            return ADDRESS
        case NewConnectionError():
            return CONNECTION
        case TimeoutError() | TimeLimitReached():
            return TIMEOUT
        case SSLError():
            return TLS
        case _:
            return PROTOCOL


def _retry_after(response: BaseHTTPResponse) -> float | None:
    try:
        return Retry().get_retry_after(response)
    except InvalidHeader:
        return None

"""Where an external service is: its addresses, which of them may be connected to, and which one is asked next."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool

from utils import green

ROUND_ROBIN, LEAST_PENDING = "round_robin", "least_pending"
# A name with more addresses than this is used by its first ones.
_MOST_ADDRESSES = 32
_EJECT_AFTER = 3
_EJECT_MAX_SECONDS = 300.0
_DEFAULT_PORTS = {"http": 80, "https": 443}
_VISIBLE = re.compile(r"[\x21-\x7e]+")
# Where a service may be that is declared private. Link-local (cloud metadata), multicast and unspecified addresses never are.
_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10", "::1/128", "fc00::/7")))
_GLOBAL_UNICAST = ip_network("2000::/3")
# Called global by `ipaddress` and still no place of a service: relays to IPv4, and documentation (RFC 9637).
_NOT_PUBLIC = tuple(map(ip_network, ("192.88.99.0/24", "2002::/16", "3fff::/20")))

Resolve = Callable[[str, int], Sequence[str]]


class NoAddress(Exception):
    """The service's names resolve to nothing that may be connected to."""


def plain_address(text: str) -> IPv4Address | IPv6Address:
    """The address that `text` means; an IPv4 one where IPv6 only wraps it. Raises ValueError."""
    address = ip_address(text)
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether `address` is an ordinary one of the public internet (IANA's special-purpose registries, RFC 6890)."""
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _NOT_PUBLIC)


def may_connect(text: str, *, private: bool) -> bool:
    """Whether a service may be at this literal address; `private`: it was declared to be in our own network."""
    address = plain_address(text)
    return is_public(address) or (private and any(address in network for network in _PRIVATE))


def resolve_host(host: str, port: int) -> list[str]:
    """The addresses of `host` as text, from the system's resolver; raises OSError. Waits on a native thread."""
    found = green.run_native(green.native_getaddrinfo, host, port, 0, socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True)
class Endpoint:
    """One URL under which a service is known."""

    scheme: str
    host: str
    port: int
    base_path: str

    @classmethod
    def of(cls, url: str) -> Endpoint:
        """Parse an http or https address; raises ValueError for anything else in it than host, port and path."""
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not _VISIBLE.fullmatch(url):
            raise ValueError("base_url must be an http or https address")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("base_url must have neither credentials nor a query")
        return cls(parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme], parts.path.rstrip("/"))

    @property
    def is_literal(self) -> bool:
        """Whether the host is an address, so that there is nothing to resolve."""
        try:
            ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def netloc(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


class Address:
    """One address of an endpoint: its pool of connections, and how it has been doing.

    The pool connects to the literal address and to nothing else; name, certificate and Host header are the endpoint's.
    """

    def __init__(self, endpoint: Endpoint, ip: str, connections: int, eject_seconds: float, tls: Any) -> None:
        self.endpoint = endpoint
        self.ip = str(plain_address(ip))
        self.pending = 0
        self._lock = threading.Lock()
        self._eject_seconds = eject_seconds
        self._failures = 0
        self._ejections = 0
        self._ejected_until = 0.0
        if endpoint.scheme == "https":
            self.pool: HTTPConnectionPool = HTTPSConnectionPool(
                self.ip, endpoint.port, maxsize=connections, block=True, ssl_context=tls(), server_hostname=endpoint.host
            )
        else:
            self.pool = HTTPConnectionPool(self.ip, endpoint.port, maxsize=connections, block=True)

    @property
    def key(self) -> tuple[Endpoint, str]:
        return self.endpoint, self.ip

    @property
    def name(self) -> str:
        """For operators: host, port and, where it differs, the address."""
        return self.endpoint.netloc if self.ip == self.endpoint.host else f"{self.endpoint.netloc} ({self.ip})"

    @property
    def is_ejected(self) -> bool:
        return time.monotonic() < self._ejected_until

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While this is open a request is pending."""
        with self._lock:
            self.pending += 1
        try:
            yield
        finally:
            with self._lock:
                self.pending -= 1

    def succeeded(self) -> None:
        """It answers: whatever was held against it is forgotten."""
        with self._lock:
            self._failures = self._ejections = 0
            self._ejected_until = 0.0

    def failed(self) -> bool:
        """Count a failure; True when the address is ejected by it.

        Each ejection is twice as long as the last, and after it one more failure is enough for the next.
        """
        with self._lock:
            self._failures += 1
            if self._failures < _EJECT_AFTER or self.is_ejected:
                return False
            self._ejected_until = time.monotonic() + min(_EJECT_MAX_SECONDS, self._eject_seconds * 2 ** min(self._ejections, 16))
            self._ejections += 1
            return True


class Addresses:
    """All addresses of a service. `refresh` resolves its names anew; what is connected to is what was resolved and checked."""

    def __init__(
        self, endpoints: Sequence[Endpoint], make: Callable[[Endpoint, str], Address], resolve: Resolve, *, balance: str, private: bool
    ) -> None:
        self._endpoints = endpoints
        self._make = make
        self._resolve = resolve
        self._least_pending = balance == LEAST_PENDING
        self._private = private
        self._known: tuple[Address, ...] = ()
        self._resolved = threading.Event()
        self._lock = threading.Lock()
        self._turn = 0

    @property
    def all(self) -> tuple[Address, ...]:
        return self._known

    def refresh(self) -> tuple[list[str], list[str]]:
        """Resolve every name anew: the names that could not be, and the addresses that were refused.

        Addresses that stay keep their connections and their standing; those of a name that cannot be resolved stay.
        """
        keep = {address.key: address for address in self._known}
        wanted: dict[tuple[Endpoint, str], Address] = {}
        unresolved: list[str] = []
        refused: list[str] = []
        for endpoint in self._endpoints:
            try:
                found = [endpoint.host] if endpoint.is_literal else self._resolve(endpoint.host, endpoint.port)
            except OSError:
                unresolved.append(endpoint.host)
                found = [ip for known, ip in keep if known == endpoint]
            allowed = [str(plain_address(ip)) for ip in found if may_connect(ip, private=self._private)]
            refused += [ip for ip in found if not may_connect(ip, private=self._private)]
            for key in ((endpoint, ip) for ip in allowed[:_MOST_ADDRESSES]):
                wanted[key] = keep.get(key) or self._make(*key)
        self._known = tuple(wanted.values())
        self._resolved.set()
        for gone in set(keep) - set(wanted):
            keep[gone].pool.close()
        return unresolved, refused

    def pick(self, tried: Collection[Address], seconds: float) -> Address:
        """The address to ask next, rather none that was `tried`; waits up to `seconds` for the first look-up.

        While all are ejected they are asked anyway. Raises NoAddress.
        """
        self._resolved.wait(seconds)
        known = self._known
        usable = [address for address in known if not address.is_ejected] or list(known)
        usable = [address for address in usable if address not in tried] or usable
        if not usable:
            raise NoAddress
        with self._lock:
            self._turn += 1
            start = self._turn % len(usable)
        in_turn = usable[start:] + usable[:start]
        return min(in_turn, key=lambda address: address.pending) if self._least_pending else in_turn[0]

    def close(self) -> None:
        """Close all connections."""
        known, self._known = self._known, ()
        for address in known:
            address.pool.close()

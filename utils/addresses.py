"""What an address is counted as, and the networks that are not counted at all."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Whatever is no address (a Unix socket, a proxy's nonsense) shares one budget: it must not be a way to get many.
UNKNOWN = "unknown"


def counted_as(address: str) -> str:
    """`address` itself, or its /64 for IPv6, of which one subscriber has as many as he likes.

    An IPv4 address inside IPv6 (what a socket for both families says of its client) is that IPv4 address.
    """
    parsed = _parsed(address)
    if parsed is None:
        return UNKNOWN
    return str(parsed) if parsed.version == 4 else str(ipaddress.IPv6Network((int(parsed), 64), strict=False))


def is_address(text: str) -> bool:
    return _parsed(text) is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine itself is reached there."""
    parsed = _parsed(host)
    return host == "localhost" or (parsed is not None and parsed.is_loopback)


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks (`10.0.0.0/8`, `2001:db8::/32`); raises ValueError that names the one which is neither."""
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ValueError(f"{text!r} is no network such as 10.0.0.0/8 or 2001:db8::1") from error
    return tuple(networks)


def is_in(address: str, networks: Iterable[Network]) -> bool:
    """Whether `address` lies in one of `networks`; what is no address lies in none."""
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address if address.version == 4 else address.ipv4_mapped or address

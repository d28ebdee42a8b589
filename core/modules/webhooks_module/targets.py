"""Where a webhook is sent: which URLs are taken, and which of a host's addresses may be connected to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from core.services.addresses import Endpoint, Resolve, may_connect, plain_address

MAX_URL_LENGTH = 2048
_DEFAULT_PORTS = {"http": 80, "https": 443}
_FIRST_UNPRIVILEGED = 1024
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_NOT_PUBLIC = "must lead to the public internet"


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, taken apart: where to connect, and what to ask for there."""

    endpoint: Endpoint
    path: str

    @classmethod
    def of(cls, url: str, *, private: bool) -> Target:
        """Take `url` apart; `private`: http, any port and addresses of our own network will do. Raises ValueError, without the URL."""
        if not _VISIBLE.fullmatch(url) or len(url) > MAX_URL_LENGTH:
            raise ValueError(f"must be a URL of up to {MAX_URL_LENGTH} visible ASCII characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("must be a URL") from None
        if parts.scheme not in (_DEFAULT_PORTS if private else ("https",)) or not parts.hostname:
            raise ValueError("must be an https address")
        if "@" in parts.netloc or "\\" in url or "#" in url:
            raise ValueError("must have neither credentials nor a fragment")
        if port is None:
            port = _DEFAULT_PORTS[parts.scheme]
        if port != _DEFAULT_PORTS[parts.scheme] and (port == 0 or (port < _FIRST_UNPRIVILEGED and not private)):
            raise ValueError("must name no port below 1024 but 443")
        endpoint = Endpoint(parts.scheme, parts.hostname, port, "")
        if not endpoint.is_literal and ("[" in parts.netloc or not _NAME.fullmatch(endpoint.host)):
            raise ValueError("must name its host")
        path = parts.path or "/"
        return cls(endpoint, f"{path}?{parts.query}" if parts.query else path)

    def addresses(self, resolve: Resolve, *, private: bool) -> list[str]:
        """All addresses of the host that may be connected to, in the order of the resolver. Raises OSError for an unknown name."""
        endpoint = self.endpoint
        found = [endpoint.host] if endpoint.is_literal else resolve(endpoint.host, endpoint.port)
        return [str(plain_address(ip)) for ip in found if may_connect(ip, private=private)]


def check_url(url: str, resolve: Resolve, *, private: bool) -> None:
    """Raises ValueError for a URL that no webhook may have; says nothing of what its host resolves to."""
    target = Target.of(url, private=private)
    try:
        found = target.addresses(resolve, private=private)
    except OSError:
        raise ValueError(_NOT_PUBLIC) from None
    if not found:
        raise ValueError(_NOT_PUBLIC)

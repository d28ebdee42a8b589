"""Downloads the pip wheel from the package index and prints its path: `fetch_pip.py FOLDER`; for bare Debian Pythons."""

from __future__ import annotations

import hashlib
import os
import ssl
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin
from urllib.request import urlopen

PIP_WHEEL = "pip-26.3-py3-none-any.whl"
DEFAULT_INDEX = "https://pypi.org/simple"


class Links(HTMLParser):
    """The address behind each link of an index page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get("href")
        if tag == "a" and address:
            self.addresses.append(address)


def main() -> int:
    """The exit code."""
    try:
        address, checksum = find_wheel(os.environ.get("PIP_INDEX_URL") or DEFAULT_INDEX)
        wheel = download(address)
    except (OSError, LookupError) as error:
        print(f"cannot fetch pip: {error}; or install the package python3-venv", file=sys.stderr)
        return 1
    if hashlib.sha256(wheel).hexdigest() != checksum:
        print(f"{address} does not have the checksum that the index names", file=sys.stderr)
        return 1
    path = Path(sys.argv[1], PIP_WHEEL)
    path.write_bytes(wheel)
    print(path)
    return 0


def find_wheel(index: str) -> tuple[str, str]:
    """Address and SHA-256 of the wheel; LookupError when the index (PEP 503) does not list it."""
    page = f"{index.rstrip('/')}/pip/"
    links = Links()
    links.feed(download(page).decode())
    for link in links.addresses:
        address, fragment = urldefrag(urljoin(page, link))
        if address.endswith(f"/{PIP_WHEEL}") and fragment.startswith("sha256="):
            return address, fragment.removeprefix("sha256=")
    raise LookupError(f"{page} does not list {PIP_WHEEL}")


def download(address: str) -> bytes:
    """The content behind `address`, checked against the certificates that pip would use."""
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"))
    with urlopen(address, timeout=60, context=context) as answer:  # noqa: S310 - the index is the user's choice
        content: bytes = answer.read()
        return content


if __name__ == "__main__":
    sys.exit(main())

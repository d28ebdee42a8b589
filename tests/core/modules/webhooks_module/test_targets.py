"""Which URLs a webhook may have, and to which addresses of their hosts one connects."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.modules.webhooks_module.targets import Target, check_url

PUBLIC = "93.184.216.34"


def resolving_to(*addresses: str):  # type: ignore[no-untyped-def]
    return lambda host, port: list(addresses)


def unknown(host: str, port: int) -> Sequence[str]:
    raise OSError


def test_a_url_is_taken_apart() -> None:
    target = Target.of("https://hooks.example.com:8443/a/b?token=t%20t", private=False)
    endpoint = target.endpoint
    assert (endpoint.scheme, endpoint.host, endpoint.port, target.path) == ("https", "hooks.example.com", 8443, "/a/b?token=t%20t")
    assert Target.of("https://example.com", private=False).path == "/"
    assert Target.of("https://example.com?x=1", private=False).path == "/?x=1"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://example.com/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "gopher://example.com/",
            "javascript:1",
            "//example.com",
            "x",
            "",
        ),
        *("https://", "https:///x", "https://user@example.com/", "https://user:password@example.com/", "https://example.com/#fragment"),
        *(
            "https://example.com:22/",
            "https://example.com:80/",
            "https://example.com:0/",
            "https://example.com:65536/",
            "https://example.com:x/",
        ),
        *(
            "https://exa mple.com/",
            "https://example.com/\n",
            "https://example.com/\x00",
            "https://exämple.com/",
            "https://example.com\\@evil/",
        ),
        *("https://[::1", "https://[v1.x]/", "https://example.com/" + "x" * 2048),
    ],
)
def test_what_is_no_ordinary_https_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as refused:
        check_url(url, resolving_to(PUBLIC), private=False)
    assert "example" not in str(refused.value)


PRIVATE = ("127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "::1", "fd00::1", "::ffff:127.0.0.1")
NEVER = (
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "fe80::1",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "255.255.255.255",
    "2002:7f00:1::",
    "ff02::1",
)


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER])
def test_a_host_that_is_not_on_the_public_internet_is_refused(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address
    for url, resolve in ((f"https://{literal}/", unknown), ("https://hooks.example.com/", resolving_to(address))):
        with pytest.raises(ValueError, match="must lead to the public internet"):
            check_url(url, resolve, private=False)


@pytest.mark.parametrize("address", NEVER)
def test_where_our_own_network_is_allowed_cloud_metadata_still_is_not(address: str) -> None:
    with pytest.raises(ValueError, match="must lead"):
        check_url("http://hooks.example.com/", resolving_to(address), private=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_our_own_network_may_be_allowed(address: str) -> None:
    check_url("http://hooks.example.com:80/", resolving_to(address), private=True)


@pytest.mark.parametrize("host", ["0x7f.1", "2130706433", "127.1", "0177.0.0.1", "localhost", "localhost."])
def test_other_ways_to_write_an_address_are_left_to_the_resolver_and_checked(host: str) -> None:
    with pytest.raises(ValueError, match="must lead"):
        check_url(f"https://{host}/", resolving_to("127.0.0.1"), private=False)


def test_an_unknown_name_is_refused_with_the_same_words_as_a_private_one() -> None:
    """Else our network could be asked what names it has."""
    with pytest.raises(ValueError, match="must lead to the public internet"):
        check_url("https://hooks.example.com/", unknown, private=False)


def test_of_several_addresses_only_those_that_may_be_are_left() -> None:
    target = Target.of("https://hooks.example.com/", private=False)
    found = target.addresses(resolving_to("10.0.0.1", PUBLIC, "169.254.169.254"), private=False)
    assert found == [PUBLIC]


@given(st.text(max_size=60) | st.text(alphabet="htps:/@[]?#.%\\0123456789abx ", max_size=60).map("https://".__add__))
def test_any_text_is_taken_or_refused(url: str) -> None:
    try:
        target = Target.of(url, private=False)
    except ValueError:
        return
    assert target.endpoint.scheme == "https"
    assert target.path.startswith("/") or not target.path.isspace()
    assert "@" not in target.endpoint.netloc
    assert target.endpoint.port == 443 or target.endpoint.port >= 1024

"""What an address is counted as, whatever a server or a proxy calls it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.addresses import UNKNOWN, counted_as, is_in, parse_networks


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::ffff:cb00:7107", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::/64"),
        *(
            (nonsense, UNKNOWN)
            for nonsense in ("unknown", "", "not:an:address", "203.0.113.7:4711", "[::1]", "010.0.0.1", "\x00", "1" * 5000)
        ),
    ],
)
def test_an_ipv6_subscriber_is_one_network_and_nonsense_is_one_client(address: str, counted: str) -> None:
    assert counted_as(address) == counted


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_all_addresses_of_a_64_are_counted_together(address: ipaddress.IPv6Address, host: int) -> None:
    if address.ipv4_mapped is None:
        neighbour = ipaddress.IPv6Address(int(address) >> 64 << 64 | host)
        assert neighbour.ipv4_mapped or counted_as(str(neighbour)) == counted_as(str(address))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_the_same_inside_of_ipv6(address: ipaddress.IPv4Address) -> None:
    assert counted_as(str(address)) == counted_as(f"::ffff:{address}") == str(address)


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    counted_as(text)
    assert isinstance(is_in(text, ()), bool)


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        *((inside, True) for inside in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7", "192.0.2.9")),
        *((outside, False) for outside in ("11.0.0.1", "2001:db9::1", "192.0.2.10", "unknown", "")),
    ],
)
def test_a_list_of_networks_holds_both_families(address: str, inside: bool) -> None:
    networks = parse_networks(("10.0.0.0/8", "2001:db8::/32", "192.0.2.9"))
    assert is_in(address, networks) is inside


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "localhost", "", "10.0.0.0/8 ", "*"])
def test_what_is_no_network_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="no network such as") as error:
        parse_networks(("127.0.0.0/8", text))
    assert repr(text) in str(error.value)

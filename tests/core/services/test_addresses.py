"""Where a service may be, however the address is written, and which of its addresses is asked next."""

from __future__ import annotations

import threading
import time
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.services.addresses import (
    LEAST_PENDING,
    ROUND_ROBIN,
    Address,
    Addresses,
    Endpoint,
    NoAddress,
    is_public,
    may_connect,
    plain_address,
    resolve_host,
)
from tests.support.polling import eventually

PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10"]
NEVER = ["0.0.0.0/8", "169.254.0.0/16", "192.0.2.0/24", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"]
NEVER_6 = ["::/128", "fe80::/10", "ff00::/8", "2001:db8::/32", "2002::/16", "3fff::/20", "100::/64", "64:ff9b::/96", "::/96", "fec0::/10"]


def inside(networks: list[str]) -> st.SearchStrategy[IPv4Address]:
    return st.sampled_from(networks).flatmap(lambda text: st.ip_addresses(network=text))


def notations(address: IPv4Address) -> list[str]:
    """What the system's resolver takes for this address."""
    a, b, c, d = address.packed
    number = int(address)
    return [
        str(address),
        str(number),
        hex(number),
        f"0{number:o}",
        f"{a}.{(b << 16) + (c << 8) + d}",
        f"{a}.{b}.{(c << 8) + d}",
        f"0x{a:x}.0{b:o}.{c}.0X{d:X}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
    ]


@given(inside(PRIVATE + NEVER), st.integers(0, 7))
def test_no_notation_of_an_address_that_is_not_public_gets_around_the_guard(address: IPv4Address, number: int) -> None:
    for found in resolve_host(notations(address)[number], 80):
        assert not may_connect(found, private=False)


@given(inside(PRIVATE + NEVER))
def test_wrapping_it_in_ipv6_does_not_either(address: IPv4Address) -> None:
    low = int(address)
    mapped, compatible, translated = IPv6Address((0xFFFF << 32) + low), IPv6Address(low), IPv6Address((0x64FF9B << 96) + low)
    six_to_four, teredo = IPv6Address((0x2002 << 112) + (low << 80) + 1), IPv6Address((0x20010000 << 96) + (low ^ 0xFFFFFFFF))
    for wrapped in (mapped, compatible, translated, six_to_four, teredo):
        assert not may_connect(str(wrapped), private=False), wrapped
        assert not may_connect(wrapped.exploded, private=False), wrapped


@given(inside(PRIVATE))
def test_a_private_service_may_be_in_our_own_network(address: IPv4Address) -> None:
    assert may_connect(str(address), private=True)
    assert may_connect(f"::ffff:{address}", private=True)


@given(inside(NEVER) | inside(NEVER_6))
def test_nobody_may_be_link_local_multicast_or_nowhere(address: IPv4Address | IPv6Address) -> None:
    if address != IPv6Address("::1"):  # inside ::/96, and loopback
        assert not may_connect(str(address), private=True)


@pytest.mark.parametrize(
    "text", ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "0.0.0.0", "::", "fe80::1%lo", "255.255.255.255"]
)
def test_the_addresses_that_attackers_want_are_not_public(text: str) -> None:
    assert not may_connect(text, private=False)


@pytest.mark.parametrize("text", ["93.184.215.14", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_ordinary_addresses_are_public(text: str) -> None:
    assert may_connect(text, private=False)


@given(st.ip_addresses(v=4))
def test_what_is_public_is_in_no_special_network(address: IPv4Address) -> None:
    special = any(address in ip_network(text) for text in PRIVATE + NEVER)
    assert not (special and is_public(address))


# Endpoints


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "ftp://example.com", "file:///etc/passwd", "http://", "http:///x", "http://x:99999"),
        *("http://a b/", "http://ex\nample.com", "http://ex\u00e4mple.com"),
        *("http://user:pw@example.com", "http://example.com@10.0.0.1", "http://example.com?x=1", "http://example.com/#x"),
    ],
)
def test_what_is_no_plain_http_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Endpoint.of(url)


def test_an_endpoint_knows_its_port_and_its_host_header() -> None:
    assert Endpoint.of("https://Shop.example.com/api/") == Endpoint("https", "shop.example.com", 443, "/api")
    assert Endpoint.of("https://shop.example.com/").netloc == "shop.example.com"
    assert Endpoint.of("http://shop.example.com:8080").netloc == "shop.example.com:8080"
    assert Endpoint.of("http://[2606:4700::1111]:8080").netloc == "[2606:4700::1111]:8080"


# Which is next


class Names:
    """A resolver whose answers the test decides."""

    def __init__(self, *found: str) -> None:
        self.found: list[str] = list(found)
        self.fails = False

    def __call__(self, host: str, port: int) -> list[str]:
        if self.fails:
            raise OSError(host)
        return self.found


def addresses_of(names: Names, *, balance: str = ROUND_ROBIN, private: bool = False, eject_seconds: float = 5) -> Addresses:
    def make(endpoint: Endpoint, ip: str) -> Address:
        return Address(endpoint, ip, 4, eject_seconds, lambda: None)

    found = Addresses([Endpoint.of("http://shop.example.com")], make, names, balance=balance, private=private)
    found.refresh()
    return found


def picks(addresses: Addresses, number: int) -> list[str]:
    return [addresses.pick((), 0).ip for _ in range(number)]


def test_round_robin_asks_each_in_turn() -> None:
    addresses = addresses_of(Names("1.1.1.1", "1.1.1.2", "1.1.1.3"))
    asked = picks(addresses, 6)
    assert len(set(asked[:3])) == 3
    assert asked[:3] == asked[3:]


def test_least_pending_asks_who_has_least_to_do() -> None:
    addresses = addresses_of(Names("1.1.1.1", "1.1.1.2"), balance=LEAST_PENDING)
    first = addresses.pick((), 0)
    with first.busy(), first.busy():
        assert set(picks(addresses, 4)) == {"1.1.1.1", "1.1.1.2"} - {first.ip}
    assert first.pending == 0
    assert set(picks(addresses, 4)) == {"1.1.1.1", "1.1.1.2"}


def test_a_retry_goes_to_another_address_where_there_is_one() -> None:
    addresses = addresses_of(Names("1.1.1.1", "1.1.1.2"))
    tried = [addresses.pick((), 0)]
    assert addresses.pick(tried, 0) is not tried[0]
    alone = addresses_of(Names("1.1.1.1"))
    assert alone.pick(alone.all, 0) is alone.all[0]


def test_three_failures_in_a_row_eject_an_address_and_a_success_brings_it_back() -> None:
    addresses = addresses_of(Names("1.1.1.1", "1.1.1.2"))
    bad, good = addresses.all
    assert [bad.failed() for _ in range(4)] == [False, False, True, False]
    assert set(picks(addresses, 5)) == {good.ip}
    bad.succeeded()
    assert set(picks(addresses, 5)) == {good.ip, bad.ip}


def test_each_ejection_lasts_longer() -> None:
    (address,) = addresses_of(Names("1.1.1.1"), eject_seconds=0.02).all
    for _ in range(2):
        address.failed()
    lengths = []
    for _ in range(3):
        assert address.failed()
        began = time.monotonic()
        eventually(lambda: not address.is_ejected, 2)
        lengths.append(address._ejected_until - began)
    assert lengths == sorted(lengths)
    assert lengths[2] == pytest.approx(0.08, abs=0.02)


def test_when_all_are_ejected_they_are_asked_anyway() -> None:
    addresses = addresses_of(Names("1.1.1.1", "1.1.1.2"))
    for address in addresses.all:
        for _ in range(3):
            address.failed()
    assert set(picks(addresses, 4)) == {"1.1.1.1", "1.1.1.2"}


def test_a_name_is_followed_and_an_address_that_stays_keeps_its_standing() -> None:
    names = Names("1.1.1.1", "1.1.1.2")
    addresses = addresses_of(names)
    stays = addresses.all[1]
    names.found = ["1.1.1.2", "1.1.1.3"]
    assert addresses.refresh() == ([], [])
    assert [address.ip for address in addresses.all] == ["1.1.1.2", "1.1.1.3"]
    assert addresses.all[0] is stays


def test_while_a_name_cannot_be_resolved_its_addresses_stay() -> None:
    names = Names("1.1.1.1")
    addresses = addresses_of(names)
    names.fails = True
    assert addresses.refresh() == (["shop.example.com"], [])
    assert picks(addresses, 1) == ["1.1.1.1"]


def test_a_name_that_turns_to_our_own_network_is_not_followed_there() -> None:
    names = Names("1.1.1.1")
    addresses = addresses_of(names)
    names.found = ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1"]
    assert addresses.refresh() == ([], names.found)
    with pytest.raises(NoAddress):
        addresses.pick((), 0)
    names.found = ["10.0.0.1", "1.1.1.2"]
    addresses.refresh()
    assert picks(addresses, 2) == ["1.1.1.2"] * 2


def test_the_first_call_waits_for_the_first_look_up() -> None:
    names = Names("1.1.1.1")

    def make(endpoint: Endpoint, ip: str) -> Address:
        return Address(endpoint, ip, 4, 5, lambda: None)

    addresses = Addresses([Endpoint.of("http://shop.example.com")], make, names, balance=ROUND_ROBIN, private=False)
    with pytest.raises(NoAddress):
        addresses.pick((), 0.01)
    thread = threading.Timer(0.02, addresses.refresh)
    thread.start()
    assert addresses.pick((), 5).ip == "1.1.1.1"
    thread.join()


def test_pending_is_counted_right_by_many_threads() -> None:
    (address,) = addresses_of(Names("1.1.1.1")).all

    def work() -> None:
        for _ in range(2000):
            with address.busy():
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert address.pending == 0


def test_a_mapped_address_is_connected_to_as_what_it_is() -> None:
    assert str(plain_address("::ffff:1.1.1.1")) == "1.1.1.1"
    assert addresses_of(Names("::ffff:1.1.1.1")).all[0].ip == "1.1.1.1"

"""Passwords: hashes that verify, a bounded number at a time, and which are refused."""

from __future__ import annotations

import threading
import time

import pytest

from plugins.main_plugin.modules.connection_api.passwords import Passwords, weakness_of
from tools.error_handling.errors import Unavailable
from utils import deadline

GOOD = "a rather long passphrase"


@pytest.fixture(scope="module")
def passwords() -> Passwords:
    """Cheap ones: what is tested here is not argon2."""
    return Passwords(time_cost=1, memory_kib=8, concurrency=2, queue=2)


def test_a_hash_verifies_its_password_and_no_other(passwords: Passwords) -> None:
    stored = passwords.hash(GOOD)
    assert stored.startswith("$argon2id$")
    assert GOOD not in stored
    assert passwords.verify(stored, GOOD)
    assert not passwords.verify(stored, GOOD + " ")
    assert passwords.hash(GOOD) != stored


@pytest.mark.parametrize("stored", [None, "", "no hash", "$argon2id$broken"])
def test_where_there_is_no_hash_nothing_verifies(stored: str | None, passwords: Passwords) -> None:
    assert not passwords.verify(stored, GOOD)
    assert not passwords.verify(stored, "no user has this password")


def test_a_hash_of_other_parameters_is_outdated(passwords: Passwords) -> None:
    stored = passwords.hash(GOOD)
    assert not passwords.is_outdated(stored)
    assert Passwords(2, 8, 1, 1).is_outdated(stored)
    assert Passwords(2, 8, 1, 1).verify(stored, GOOD), "and still verifies"


class Slow(Passwords):
    """Holds every check until it is told, and counts how many run at a time."""

    def __init__(self, concurrency: int, queue: int) -> None:
        super().__init__(1, 8, concurrency, queue)
        self.go, self.running, self.most = threading.Event(), 0, 0
        self._counted = threading.Lock()

    def _matches(self, stored: str, password: str) -> bool:
        with self._counted:
            self.running += 1
            self.most = max(self.most, self.running)
        self.go.wait(5)
        with self._counted:
            self.running -= 1
        return True


def test_only_so_many_run_and_wait_and_more_are_refused_at_once() -> None:
    slow, answers = Slow(concurrency=2, queue=3), []
    threads = [threading.Thread(target=lambda: answers.append(slow.verify("x", GOOD))) for _ in range(5)]
    for thread in threads:
        thread.start()
    ended = time.monotonic() + 5
    while slow._waiting._value or slow.running < 2:  # type: ignore[attr-defined]
        assert time.monotonic() < ended
        time.sleep(0.005)
    with pytest.raises(Unavailable) as refusal:
        slow.verify("x", GOOD)
    assert (refusal.value.code, refusal.value.headers["Retry-After"]) == ("backpressure", "2")
    slow.go.set()
    for thread in threads:
        thread.join()
    assert answers == [True] * 5
    assert slow.most == 2
    assert slow.verify("x", GOOD)


def test_who_waits_waits_no_longer_than_his_request_may() -> None:
    slow = Slow(concurrency=1, queue=5)
    first = threading.Thread(target=lambda: slow.verify("x", GOOD))
    first.start()
    while not slow.running:
        time.sleep(0.005)
    deadline.start(0.1)
    try:
        with pytest.raises(Unavailable):
            slow.verify("x", GOOD)
    finally:
        deadline.clear()
        slow.go.set()
        first.join()
    assert slow.verify("x", GOOD), "whoever gave up has given his place back"


@pytest.mark.parametrize("password", ["123456789012", "Password1234", "aaaaaaaaaaaaaaa", "abcabcabcabcabc", "qwertyuiop123"])
def test_common_and_monotonous_passwords_are_refused(password: str) -> None:
    assert weakness_of(password, "ann", "ann@example.com") == "is too common"


@pytest.mark.parametrize("password", ["Annabel.The.Great", "annabel.the.great", "Ann.Mail.Address@example.com", "ann.mail.address"])
def test_ones_own_name_or_address_is_refused(password: str) -> None:
    assert weakness_of(password, "annabel.the.great", "ann.mail.address@example.com") == "must not be the username or the e-mail address"


@pytest.mark.parametrize("password", [GOOD, "correct horse battery staple", "пароль очень длинный", "🦊🐻🐼🐨🐯🦁🐮🐷🐸🐵🐔🐧"])
def test_there_are_no_rules_of_composition(password: str) -> None:
    assert weakness_of(password, "ann", "ann@example.com") is None

"""Work under a lease: its end never fails, and its failures are told by what they are."""

from __future__ import annotations

from typing import Any

import pytest

from core.lease import LeaseLost
from core.leased import Leased
from tools.error_handling.errors import Unavailable


class LeaseOf:
    """A lease whose release fails as it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.released = 0
        self._error = error

    def release(self) -> None:
        self.released += 1
        if self._error is not None:
            raise self._error


class Work(Leased):
    title = "the work"


def test_its_end_gives_the_lease_back() -> None:
    lease: Any = LeaseOf()
    Work(lease).stop()
    assert lease.released == 1


def test_a_lease_that_cannot_be_given_back_is_left_to_expire(caplog: pytest.LogCaptureFixture) -> None:
    lease: Any = LeaseOf(Unavailable("The database does not answer."))
    Work(lease).stop()
    assert [record.getMessage() for record in caplog.records] == ["the lease of the work is left to expire"]


@pytest.mark.parametrize(
    ("error", "level"), [(LeaseLost("the-lease"), "WARNING"), (Unavailable("away"), "WARNING"), (KeyError("a fault"), "ERROR")]
)
def test_a_failure_is_told_by_what_it_is(error: Exception, level: str, caplog: pytest.LogCaptureFixture) -> None:
    lease: Any = LeaseOf()
    Work(lease).failed(error)
    [record] = caplog.records
    assert (record.levelname, record.getMessage().startswith("the work: ")) == (level, True)

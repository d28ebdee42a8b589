"""What `make run` can be told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.local_stack import ServerFailed
from tools.local_stack.settings import Settings


def test_nothing_given_means_the_documented_defaults() -> None:
    settings = Settings.from_environ({})
    assert (settings.url, settings.workers, settings.async_mode) == ("http://127.0.0.1:5000", 2, "eventlet")
    assert (settings.data_dir, settings.secrets_dir, settings.vault) == (Path(".data"), Path("secrets"), False)
    assert settings.log_dir == Path(".data/logs")


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_environ({"PORT": "", "MONGODB_URI": ""}) == Settings.from_environ({})


@pytest.mark.parametrize("name", ["PORT", "WORKERS"])
@pytest.mark.parametrize("value", ["x", "0", "-1", "70000", "1.5"])
def test_a_number_that_makes_no_sense_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ServerFailed, match=f"{name} must be a whole number"):
        Settings.from_environ({name: value})


def test_an_ipv6_host_is_bracketed_in_the_address() -> None:
    assert Settings.from_environ({"HOST": "::1"}).url == "http://[::1]:5000"

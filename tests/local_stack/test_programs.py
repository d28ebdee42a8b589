"""Which program is run, and what is said where none can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.local_stack import ServerFailed
from tools.local_stack.mongod import find_mongod
from tools.local_stack.programs import find_program, in_package, version_of, with_bundled_curl


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_first_program_that_is_new_enough_is_taken(tmp_path: Path) -> None:
    old = script(tmp_path / "old", "echo db version v4.4.29")
    new = script(tmp_path / "new", "echo db version v10.0.1")
    assert find_program("mongod", [old, new], (6, 0)) == new


def test_each_program_that_does_not_do_is_listed_with_its_reason(tmp_path: Path) -> None:
    old = script(tmp_path / "old", "echo Redis server v=5.0.14 sha=0")
    broken = script(tmp_path / "broken", "kill -ILL $$")
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"\x7fELF of another machine")
    foreign.chmod(0o755)
    with pytest.raises(ServerFailed) as refusal:
        find_program("redis-server", [old, broken, foreign], (6, 2))
    text = str(refusal.value)
    assert "version 5.0.14 is older than 6.2" in text
    assert "killed by SIGILL" in text
    assert "Exec format error" in text


def test_missing_libraries_are_named_with_their_debian_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mongod = script(tmp_path / "mongod", "exit 127")
    script(tmp_path / "ldd", "echo '	libcurl.so.4 => not found'; echo '	libm.so.6 => /lib/libm.so.6'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("MONGOD", str(mongod))
    with pytest.raises(ServerFailed) as refusal:
        find_mongod()
    text = str(refusal.value)
    assert "this machine lacks libcurl.so.4 (Debian: apt-get install libcurl4)" in text
    assert "docker compose" in text
    assert "MONGODB_URI=" in text


def test_a_mongod_named_by_the_user_is_not_silently_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGOD", "/nowhere/mongod")
    with pytest.raises(ServerFailed, match="/nowhere/mongod"):
        find_mongod()


def test_the_wheels_mongod_also_runs_with_the_libcurl_of_a_wheel() -> None:
    (mongod,) = with_bundled_curl(in_package("fiftyone/db/bin/mongod"))
    assert version_of(mongod) >= (6, 0)

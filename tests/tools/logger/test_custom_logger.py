"""The logs: three files, one line an event in JSON or text, nothing forged and nothing secret."""

from __future__ import annotations

import gc
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.errors import OperationFailure

from tests.support.logs import Logs, logging_to
from tools.logger.custom_logger import configure_logging, custom_log, game_log, log_exception, log_function, log_game_event, log_request

WORD = "s3cretCanary"
FORGERIES = ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]
FORGED = '{"level": "INFO", "message": "admin logged in"}'
Texts = st.text(st.characters(exclude_categories=()), max_size=60)


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    with logging_to(tmp_path) as opened:
        yield opened


@pytest.fixture
def text_logs(tmp_path: Path) -> Iterator[Logs]:
    with logging_to(tmp_path, "text") as opened:
        yield opened


def test_events_go_to_the_file_of_their_kind(logs: Logs) -> None:
    custom_log("started")
    game_log("credits granted")
    log_function(lambda: None)()
    assert [line["message"] for line in logs.lines("server")] == ["started"]
    assert [line["message"] for line in logs.lines("game_play")] == ["credits granted"]
    assert len(logs.lines("function")) == 1
    assert {path.name for path in logs.folder.iterdir()} == {"server.log", "game_play.log", "function.log"}


def test_a_line_says_when_how_severe_what_and_the_fields(logs: Logs) -> None:
    custom_log("a commit failed", level="WARNING", code="unavailable", commands=3, ratio=0.5, done=False, nothing=None)
    (line,) = logs.lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    expected = {"level": "WARNING", "logger": "credit.server", "message": "a commit failed"}
    assert line == {**expected, "code": "unavailable", "commands": 3, "ratio": 0.5, "done": False, "nothing": None}


def test_a_text_line_has_the_same(text_logs: Logs) -> None:
    custom_log("a commit failed", level="WARNING", code="unavailable", commands=3)
    assert re.fullmatch(r"\S+Z WARNING a commit failed code=unavailable commands=3\n", text_logs.text())


def test_what_is_less_severe_than_the_level_is_left_out(tmp_path: Path) -> None:
    with logging_to(tmp_path, level="WARNING") as logs:
        custom_log("debug", level="DEBUG")
        custom_log("info")
        custom_log("warning", level="warning")
        assert [line["message"] for line in logs.lines()] == ["warning"]


def test_the_console_has_a_level_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path, console="ERROR") as logs:
        custom_log("for the file")
        custom_log("for both", level="ERROR")
        assert len(logs.lines()) == 2
    shown = capsys.readouterr().err
    assert "for both" in shown
    assert "for the file" not in shown


@given(Texts, st.sampled_from(FORGERIES), Texts)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@pytest.mark.parametrize("form", ["json", "text"])
def test_nobody_forges_a_second_line(form: str, tmp_path: Path, before: str, line_end: str, after: str) -> None:
    evil = f"{before}{line_end}{FORGED}{after}"
    folder = tmp_path / os.urandom(8).hex()
    with logging_to(folder, form) as logs:
        custom_log(evil)
        custom_log("field", memo=evil, deep=[{"memo": evil}])
        log_request({"route": evil})
        log_exception("failed", ValueError("x"), memo=evil)
        assert len(logs.text().splitlines()) == 4


def test_a_traceback_is_one_line_too(logs: Logs) -> None:
    try:
        raise ValueError(f"first\n{FORGED}")
    except ValueError as error:
        log_exception("failed", error)
    (line,) = logs.lines()
    assert "test_custom_logger.py" in line["exception"]
    assert "ValueError: first" in line["exception"]


def test_an_exception_is_logged_with_its_causes_and_of_a_driver_only_the_name(logs: Logs) -> None:
    try:
        try:
            raise OperationFailure(f"cannot store {WORD}")
        except OperationFailure as error:
            raise KeyError("ours") from error
    except KeyError as error:
        log_exception("failed", error)
    shown = logs.lines()[0]["exception"]
    assert "KeyError" in shown
    assert "caused by" in shown
    assert "OperationFailure" in shown
    assert WORD not in shown


def test_an_exception_is_logged_with_its_traceback_and_without_its_secrets(logs: Logs) -> None:
    try:
        raise RuntimeError(f"mongodb://app:{WORD}@db/ refused\nalice@{WORD}.com\tBearer {WORD}.x")
    except RuntimeError as error:
        log_exception("failed", error, password=WORD, request_id="req-1")
    (line,) = logs.lines()
    assert "RuntimeError" in line["exception"]
    assert line["request_id"] == "req-1"
    assert WORD not in logs.text()


@pytest.mark.parametrize("form", ["json", "text"])
def test_secrets_are_masked_by_name_and_by_shape(form: str, tmp_path: Path) -> None:
    with logging_to(tmp_path, form) as logs:
        custom_log(f"hello alice@{WORD}.com", password=WORD, deep={"list": [{"refresh_token": WORD}]}, error=ValueError(f"a@{WORD}.com"))
        game_log("joined", api_key=WORD, url=f"https://user:{WORD}@example.com/")
        log_request({"route": f"/users/bob@{WORD}.com"})
        logging.getLogger("some.library").warning("gave up on %s", f"redis://:{WORD}@cache:6379/0")
        assert WORD not in logs.text() + logs.text("game_play")
        assert len(logs.text().splitlines()) == 3


@pytest.mark.parametrize(
    "text", ["\nalice@example.com", "jos\u00e9@example.com", "\talice@example.com", '"alice@example.com"', "\\alice@example.com"]
)
def test_a_masked_line_is_still_json(text: str, logs: Logs) -> None:
    custom_log(f"x{text}", memo=text)
    log_exception("failed", ValueError(text))
    log_request({"route": text})
    assert len(logs.lines()) == 3
    assert "example.com" not in logs.text()


def test_text_that_utf_8_cannot_hold_is_logged_anyway(text_logs: Logs) -> None:
    custom_log("lone \ud800 surrogate")
    assert "surrogate" in text_logs.text()


def test_opening_the_logs_again_replaces_and_closes_the_old_files(tmp_path: Path) -> None:
    with logging_to(tmp_path / "a"):
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        with logging_to(tmp_path / "b") as logs:
            for _ in range(10):
                own = {"LOG_DIR": str(logs.folder), "LOG_FORMAT": "json", "LOG_LEVEL": "INFO", "LOG_CONSOLE": "ERROR"}
                configure_logging({**own, "LOG_MAX_BYTES": 0, "LOG_BACKUPS": 1})
                custom_log("once")
            assert len(os.listdir("/proc/self/fd")) <= before
            assert len(logs.lines()) == 10


def test_a_rotated_file_is_followed(logs: Logs) -> None:
    custom_log("before")
    (logs.folder / "server.log").rename(logs.folder / "server.log.1")
    custom_log("after")
    assert [line["message"] for line in logs.lines()] == ["after"]


Anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | Texts | st.binary(max_size=20) | st.just(object()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(Texts, inner, max_size=3) | st.frozensets(Texts, max_size=2),
    max_leaves=6,
)


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


@given(st.dictionaries(st.from_regex(r"[a-z]{3,8}", fullmatch=True), Anything, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@pytest.mark.parametrize("form", ["json", "text"])
def test_one_event_is_one_line_whatever_its_fields_hold(form: str, tmp_path: Path, fields: dict[str, Any]) -> None:
    fields = {f"x_{name}": value for name, value in fields.items()}
    with logging_to(tmp_path / os.urandom(8).hex(), form) as logs:
        custom_log("event", **fields)
        (line,) = logs.text().splitlines()
    if form == "json":
        assert set(fields) <= set(json.loads(line, parse_constant=refuse))


def test_of_an_exception_that_cannot_be_shown_the_type_is(logs: Logs) -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    log_exception("failed", Silent())
    assert "Silent" in logs.lines()[0]["exception"]


def test_what_a_http_library_warns_of_is_not_repeated(logs: Logs) -> None:
    logging.getLogger("urllib3.connectionpool").warning("Failed to parse headers (url=%s)", f"/x?{WORD}")
    assert WORD not in logs.text()


# Decorators


@log_function
def divide(dividend: int, divisor: int) -> float:
    """Divide."""
    return dividend / divisor


@log_game_event("credits granted", "amount", "to", "token")
def grant(amount: int, to: str = "nobody", *, token: str = WORD, memo: str = WORD) -> int:
    """Grant."""
    if amount < 1:
        raise ValueError(amount)
    return amount


def test_a_logged_function_is_still_itself(logs: Logs) -> None:
    assert divide(6, divisor=3) == 2
    assert (divide.__name__, divide.__doc__) == ("divide", "Divide.")
    assert grant(5) == 5
    assert grant.__doc__ == "Grant."


def test_a_logged_function_leaves_name_time_and_outcome_and_never_its_arguments(logs: Logs) -> None:
    divide(424242, 1)
    with pytest.raises(ZeroDivisionError):
        divide(424242, 0)
    returned, raised = logs.lines("function")
    assert (returned["message"], returned["outcome"], raised["outcome"]) == ("divide", "returned", "raised")
    assert ("error" not in returned, raised["error"]) == (True, "ZeroDivisionError")
    assert 0 <= returned["duration_ms"] < 1000
    assert "424242" not in logs.text("function")


def test_only_a_successful_call_is_a_game_event(logs: Logs) -> None:
    grant(5)
    with pytest.raises(ValueError):
        grant(0)
    assert [line["message"] for line in logs.lines("game_play")] == ["credits granted"]


def test_the_arguments_that_are_named_are_fields_of_the_event_and_secrets_are_masked(logs: Logs) -> None:
    grant(5)
    grant(amount=7, to="alice")
    fields = [{name: line[name] for name in ("amount", "to", "token")} for line in logs.lines("game_play")]
    assert fields == [{"amount": 5, "to": "nobody", "token": "[redacted]"}, {"amount": 7, "to": "alice", "token": "[redacted]"}]
    assert WORD not in logs.text("game_play")


def test_an_event_names_only_arguments_that_there_are() -> None:
    with pytest.raises(ValueError, match="has no parameter colour"):
        log_game_event("painted", "colour")(divide)


def test_an_unknown_level_is_an_error_of_the_caller() -> None:
    arguments: dict[str, Any] = {"level": "LOUD"}
    with pytest.raises(KeyError):
        custom_log("x", **arguments)

"""Log files: several processes, rotation, a full disk; and lines that repeat."""

from __future__ import annotations

import json
import logging
import os
import resource
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.logs import Logs, logging_to
from tools.logger.custom_logger import custom_log, log_exception
from tools.logger.log_file import Console, LogFile
from tools.logger.repeat_limit import RepeatLimit

ROOT = Path(__file__).parents[3]
PROCESSES, LINES = 4, 12_500
WRITER = """
import sys
from utils import green
if sys.argv[4]: green.patch(sys.argv[4])
from tools.logger.custom_logger import configure_logging, log_request
configure_logging({"LOG_DIR": sys.argv[1], "LOG_FORMAT": "json", "LOG_LEVEL": "INFO", "LOG_CONSOLE": "ERROR",
                   "LOG_MAX_BYTES": 131072, "LOG_BACKUPS": 100})
for number in range(int(sys.argv[3])):
    log_request({"n": f"{sys.argv[2]}-{number}"})
"""


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    with logging_to(tmp_path) as opened:
        yield opened


def test_every_line_of_four_processes_is_there_once_while_the_file_is_rotated(tmp_path: Path) -> None:
    modes = ("", "eventlet", "gevent", "")
    writers = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", WRITER, str(tmp_path), str(number), str(LINES), mode], cwd=ROOT)
        for number, mode in enumerate(modes)
    ]
    assert [writer.wait(100) for writer in writers] == [0] * PROCESSES
    files = [path for path in tmp_path.iterdir() if path.name.startswith("server.log")]
    assert len(files) > 25
    assert min(path.stat().st_size for path in files if path.name != "server.log") >= 131_072, "nobody rotates twice"
    seen = Counter(json.loads(line)["n"] for path in files for line in path.read_text().splitlines())
    assert seen == {f"{writer}-{number}": 1 for writer in range(PROCESSES) for number in range(LINES)}


def test_a_file_is_rotated_at_its_size_and_so_many_are_kept(tmp_path: Path) -> None:
    with logging_to(tmp_path, LOG_MAX_BYTES=1000, LOG_BACKUPS=2) as logs:
        for number in range(60):
            custom_log("event", number=number)
        assert {path.name for path in tmp_path.glob("server.log*")} == {"server.log", "server.log.1", "server.log.2"}
        names = ("server.log.2", "server.log.1", "server.log")
        numbers = [json.loads(line)["number"] for name in names for line in (tmp_path / name).read_text().splitlines()]
        assert numbers == list(range(numbers[0], 60)), "in order, and the oldest are gone"
        assert len(numbers) > 20
        assert logs.lines()


def test_the_logs_are_for_their_owner_and_group_only(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir(mode=0o750)
    (folder / "function.log").touch(mode=0o666)
    before = os.umask(0)
    try:
        with logging_to(folder, LOG_MAX_BYTES=100):
            for _ in range(3):
                custom_log("event")
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) & 0o137 for path in folder.iterdir()} == dict.fromkeys(
        ("server.log", "server.log.1", "game_play.log", "function.log"), 0
    )


# What goes wrong


def test_a_full_disk_reaches_nobody_and_is_said_once(logs: Logs, capsys: pytest.CaptureFixture[str]) -> None:
    custom_log("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (logs.folder.joinpath("server.log").stat().st_size + 30, limits[1]))
    try:
        for _ in range(20):
            custom_log("canary")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    custom_log("after")
    shown = capsys.readouterr().err
    assert shown.count("a log cannot be written (OSError)") == 1
    assert "canary" not in shown
    first, torn, last = logs.text().splitlines()
    assert (json.loads(first)["message"], json.loads(last)["message"]) == ("before", "after")
    assert len(torn) == 30, "what was cut off stays on a line of its own"


def test_a_directory_that_is_gone_reaches_nobody(logs: Logs, tmp_path: Path) -> None:
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    custom_log("nowhere")
    moved.rename(tmp_path)
    custom_log("back")
    assert [line["message"] for line in logs.lines()] == ["back"]


def test_an_event_that_cannot_be_formatted_is_not_shown_elsewhere(logs: Logs, capsys: pytest.CaptureFixture[str]) -> None:
    broken = logging.LogRecord("some.library", logging.ERROR, "", 0, "%d canary", ("not a number",), None)
    for handler in logging.getLogger("credit.server").handlers:
        if isinstance(handler, (Console, LogFile)):
            handler.handle(broken)
    assert "canary" not in capsys.readouterr().err
    assert "canary" not in logs.text()


def test_a_closed_file_leaves_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    handler = LogFile(tmp_path / "x.log")
    handler.close()
    handler.close()
    assert len(os.listdir("/proc/self/fd")) == before


# Lines that repeat


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def record(message: str, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord("credit.server", level, "", 0, "%s", (message,), None)


def test_what_repeats_is_limited_and_counted_once_its_minute_is_over() -> None:
    told: list[str] = []
    clock = Clock()
    limit = RepeatLimit(lambda line: told.append(line.getMessage()), clock)
    assert sum(limit.passes(record("again")) for _ in range(500)) == 100
    assert limit.passes(record("something else"))
    assert all(limit.passes(record("request", logging.INFO)) for _ in range(500))
    assert told == []
    clock.now += 61
    assert limit.passes(record("request", logging.INFO))
    assert told == ["suppressed 400 more of: again"]
    assert sum(limit.passes(record("again")) for _ in range(500)) == 100


def test_an_end_tells_what_was_left_out(tmp_path: Path) -> None:
    with logging_to(tmp_path) as logs:
        for number in range(150):
            custom_log("again", level="ERROR", number=number)
    messages = [line["message"] for line in logs.lines()]
    assert messages == ["again"] * 100 + ["suppressed 50 more of: again"]


def test_a_line_of_a_library_repeats_by_its_template(logs: Logs) -> None:
    for number in range(150):
        logging.getLogger("some.library").warning("lost connection %d", number)
    assert len(logs.lines()) == 100


def test_different_messages_do_not_fill_the_memory() -> None:
    clock = Clock()
    limit = RepeatLimit(lambda line: None, clock)
    passed = sum(limit.passes(record(f"message {number}")) for number in range(5000))
    assert passed == 256 + 100
    assert len(limit._counts) <= 257
    clock.now += 61
    assert limit.passes(record("fresh"))
    assert len(limit._counts) < 257


def test_a_secret_in_what_repeats_is_masked_in_its_summary(tmp_path: Path) -> None:
    with logging_to(tmp_path) as logs:
        for _ in range(150):
            log_exception("mail to canary@example.com", ValueError())
    assert "suppressed 50" in logs.text()
    assert "canary" not in logs.text()


def test_the_limit_costs_a_request_nothing_worth_mentioning() -> None:
    limit, line = RepeatLimit(lambda line: None), record("request", logging.INFO)
    began = time.process_time()
    for _ in range(10_000):
        limit.passes(line)
    assert time.process_time() - began < 0.5

"""The concurrency mode: each in a process of its own, since patching cannot be undone."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from utils import green

ROOT = Path(__file__).parents[2]
NATIVE = """
import sys
from utils import green
green.patch(sys.argv[1])
import threading, time, warnings
assert green.current_mode() == sys.argv[1], green.current_mode()
real = sys.modules['eventlet'].patcher.original('time') if sys.argv[1] == 'eventlet' else __import__('gevent.monkey').monkey.get_original
sleep = real.sleep if sys.argv[1] == 'eventlet' else real('time', 'sleep')
ticks = []
def tick():
    while True:
        ticks.append(1)
        time.sleep(0.01)
threading.Thread(target=tick, daemon=True).start()
assert green.run_native(lambda a, b: sleep(0.3) or a + b, 2, 3) == 5
assert len(ticks) > 5, f'the loop stood still: {len(ticks)}'
green.end_native()
assert green.run_native(lambda: 7) == 7
try:
    green.run_native(int, 'x')
except ValueError:
    print('ok')
"""


def test_a_process_that_was_not_patched_runs_threads_and_calls_directly() -> None:
    assert green.current_mode() == "threading"
    assert green.run_native(threading.get_ident) == threading.get_ident()


@pytest.mark.parametrize("mode", ["eventlet", "gevent"])
def test_what_blocks_runs_beside_the_loop_and_its_exceptions_come_back(mode: str) -> None:
    done = subprocess.run([sys.executable, "-c", NATIVE, mode], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr


def test_the_gevent_workers_keep_what_was_native_before_the_patch() -> None:
    """In the order of gunicorn: the worker's class is imported, then the process is patched, then comes the application."""
    code = (
        "import core.web.gevent_worker; from gevent import monkey; monkey.patch_all(); from utils import green; import select; "
        "print(green.current_mode(), green.native_poll is select.poll, green.native_getaddrinfo.__module__)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["gevent", "False", "socket"]


def test_the_mode_of_a_module_that_is_only_imported_is_not_its_mode() -> None:
    code = "import eventlet.patcher, gevent.monkey; from utils import green; print(green.current_mode())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "threading"

"""What a stop, and a boot that fails halfway, leave behind: no thread, no socket, no greenlet, in every mode."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.app_server import ROOT
from tools.local_stack import LocalStack

PRELUDE = """
    import sys
    from utils import green
    green.patch({mode!r})

    import gc, threading, time
    import psutil
    from core.managers.app_manager import AppManager
    from core.managers.base import BootError
    from tests.support.polling import eventually


    def left():
        '''Everything of this process that works or waits.'''
        gc.collect()
        green_type = sys.modules["greenlet"].greenlet if "greenlet" in sys.modules else ()
        greenlets = [each for each in gc.get_objects() if issubclass(type(each), green_type)]
        return (
            sorted(thread.name for thread in threading.enumerate()),
            psutil.Process().num_threads(),
            [f"{{each.laddr}} {{each.raddr}}" for each in psutil.Process().net_connections()],
            {{id(each) for each in greenlets if each and not each.dead}},
        )


    # The loops of the modes start with their first switch.
    time.sleep(0.01)
    before = left()
"""
STOP = """
    manager = AppManager()
    manager.initialize()
    assert manager.vault_manager.enabled
    assert manager.config.origin("MONGODB_PASSWORD") == "vault"
    client = manager.app.test_client()
    # The sockets' queue is joined in the background.
    eventually(lambda: client.get("/health").get_json()["status"] == "healthy", 20)
    assert client.post("/auth/login", json={"login": "nobody", "password": "not the password"}).status_code == 401
    assert len(left()[0]) > 5 and left()[2]
    manager.dispose()
    manager.dispose()
"""
FAILURE = """
    from core.managers.module_manager import ModuleManager

    initialize = ModuleManager.initialize

    def fails(self):
        initialize(self)
        assert len(left()[0]) > 4 and left()[2]
        raise RuntimeError("canary")

    ModuleManager.initialize = fails
    try:
        AppManager().initialize()
    except BootError as error:
        assert str(error) == "11/11 module: RuntimeError; server.log has the details", error
    else:
        raise AssertionError("it booted")
"""
END = """
    try:
        # The driver's monitors look twice a second whether they shall end. Until then one may look a name up once more,
        # on a native thread of the loop's.
        eventually(lambda: green.end_native() or left() == before, 10)
    except AssertionError:
        print(before, left(), sep="\\n", file=sys.stderr)
        raise
    print("nothing left")
"""


@pytest.mark.parametrize(
    ("mode", "what"),
    [("threading", STOP), ("eventlet", STOP), ("gevent", STOP), ("eventlet", FAILURE)],
    ids=["threading", "eventlet", "gevent", "failed boot"],
)
def test_nothing_is_left(mode: str, what: str, stack: LocalStack, tmp_path: Path) -> None:
    script = textwrap.dedent(PRELUDE).format(mode=mode) + textwrap.dedent(what) + textwrap.dedent(END)
    own = {"LOG_DIR": str(tmp_path), "LOG_CONSOLE": "ERROR", "RATE_LIMIT_SCALE": "1000", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **stack.environ, **own}, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout.strip() == "nothing left", ended.stderr

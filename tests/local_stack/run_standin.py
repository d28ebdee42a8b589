"""`make run`, but for the application: the supervisor with the stand-in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tools.local_stack.__main__ import say
from tools.local_stack.settings import Settings
from tools.local_stack.supervisor import Supervisor

if __name__ == "__main__":
    app = [sys.executable, str(Path(__file__).with_name("standin_app.py"))]
    sys.exit(Supervisor(Settings.from_environ(os.environ), say, app).run())

"""The rehearsal of the boot, once before the workers: `python -m core.preflight`. Nothing listens until it has passed."""

from __future__ import annotations

import sys

from core.managers.app_manager import AppManager
from core.managers.base import BootError
from tools.error_handling.errors import AppError


def main() -> int:
    """Boot, prepare what is done once a start, and stop again; 0, or 3 with one line that says what is wrong."""
    manager = AppManager()
    try:
        manager.initialize()
        manager.prepare()
    except (BootError, AppError) as error:
        print(f"boot failed: {error}", file=sys.stderr)
        return 3
    finally:
        manager.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One measurement of our engine on wallets that a bulk load has made: `python -m bench.ours_process transfers --wallets 1000`."""

from __future__ import annotations

import os

from utils import green

# Before any other import: what is imported earlier keeps its blocking sockets.
green.patch(os.environ.get("ASYNC_MODE", "eventlet"))

import argparse  # noqa: E402
import random  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402

from bench.callers import Call, drive  # noqa: E402
from bench.loader import wallet_name  # noqa: E402
from bench.our_engine import ACTOR, booted, engine_of, run_on  # noqa: E402
from bench.overload_process import overload  # noqa: E402
from bench.result import Result  # noqa: E402
from bench.scenarios import SCENARIOS  # noqa: E402
from core.managers.app_manager import AppManager  # noqa: E402
from core.web.routing import SERVICE, Principal  # noqa: E402


def main() -> None:
    """Boot, measure, print the Result as the last line."""
    options = _options()
    names = [wallet_name(number) for number in range(options.wallets)]
    with booted() as manager:
        result = MEASURES[options.what](manager, names, options)
    print(result.to_json(), flush=True)


def _transfers(manager: AppManager, names: Sequence[str], options: argparse.Namespace) -> Result:
    return run_on(manager, names, options.scenario, options.callers, options.seconds)


def _reads(manager: AppManager, names: Sequence[str], options: argparse.Namespace) -> Result:
    """What GET /wallets/{id} does, behind the request chain."""
    wallets = manager.module_manager.get_module("wallet_module").service
    principal = Principal(ACTOR.user_id, SERVICE, session_id="")

    def reader(number: int) -> Call:
        pick = random.Random(number).choice
        return lambda: wallets.get(principal, pick(names))

    return drive([reader(number) for number in range(options.callers)], options.seconds)


def _overload(manager: AppManager, names: Sequence[str], options: argparse.Namespace) -> Result:
    return overload(engine_of(manager), names, options.rate, options.callers, options.seconds)


MEASURES: dict[str, Callable[[AppManager, Sequence[str], argparse.Namespace], Result]] = {
    "transfers": _transfers,
    "reads": _reads,
    "overload": _overload,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ours_process")
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--scenario", choices=SCENARIOS, default="uniform")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--wallets", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=0.0, help="of an overload: transfers offered a second")
    return parser.parse_args()


if __name__ == "__main__":
    main()

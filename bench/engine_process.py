"""One engine run in a process of its own, patched for its async mode: `python -m bench.engine_process ours uniform`."""

from __future__ import annotations

import os

from utils import green

# Before any other import: what is imported earlier keeps its blocking sockets.
green.patch(os.environ.get("ASYNC_MODE", "eventlet"))

import argparse  # noqa: E402
import importlib  # noqa: E402

from bench.scenarios import SCENARIOS  # noqa: E402

SIDES = {"ours": "bench.our_engine", "naive": "bench.naive_engine"}


def main() -> None:
    """Run one side and print its Result as the last line."""
    options = _options()
    side = importlib.import_module(SIDES[options.side])  # only the side that runs is loaded and paid for
    result = side.run_engine(options.scenario, options.callers, options.wallets, options.seconds)
    print(result.to_json(), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.engine_process")
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--wallets", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=4.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()

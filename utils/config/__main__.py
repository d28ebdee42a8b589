"""Prints the settings as the README shows them (`python -m utils.config`), or `.env.example` (`... env`)."""

import sys

from utils.config.config import example_environment, settings_table

if __name__ == "__main__":
    print(example_environment() if sys.argv[1:] == ["env"] else settings_table())

"""Prints the settings table of the README: `python -m utils.config`."""

from utils.config.config import settings_table

if __name__ == "__main__":
    print(settings_table())

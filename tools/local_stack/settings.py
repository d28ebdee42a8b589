"""What `make run` can be told, read from the environment in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tools.local_stack.process import ServerFailed
from tools.local_stack.stack import DATABASE


@dataclass(frozen=True)
class Settings:
    """The settings of one run; those that only the application understands stay text."""

    host: str
    port: int
    data_dir: Path
    secrets_dir: Path
    log_dir: Path
    workers: int
    async_mode: str
    rate_limit_scale: str
    vault: bool
    mongodb_uri: str
    mongodb_database: str
    redis_url: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """ServerFailed names the variable that makes no sense; an empty one counts as not set."""
        given = {name: value for name, value in environ.items() if value}
        data_dir = Path(given.get("DATA_DIR", ".data"))
        return cls(
            host=given.get("HOST", "127.0.0.1"),
            port=_number(given, "PORT", 5000, at_most=65535),
            data_dir=data_dir,
            secrets_dir=Path(given.get("SECRETS_DIR", "secrets")),
            log_dir=Path(given.get("LOG_DIR", data_dir / "logs")),
            workers=_number(given, "WORKERS", 2, at_most=256),
            async_mode=given.get("ASYNC_MODE", "eventlet"),
            rate_limit_scale=given.get("RATE_LIMIT_SCALE", "1"),
            vault=given.get("VAULT", "0").lower() in ("1", "true", "yes", "on"),
            mongodb_uri=given.get("MONGODB_URI", ""),
            mongodb_database=given.get("MONGODB_DATABASE", DATABASE),
            redis_url=given.get("REDIS_URL", ""),
        )

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the application."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def for_app(self) -> dict[str, str]:
        """The application's environment, but for what only the running servers know."""
        return {
            "HOST": self.host,
            "PORT": str(self.port),
            "WORKERS": str(self.workers),
            "ASYNC_MODE": self.async_mode,
            "RATE_LIMIT_SCALE": self.rate_limit_scale,
            "LOG_DIR": str(self.log_dir.absolute()),
        }


def _number(given: Mapping[str, str], name: str, default: int, at_most: int) -> int:
    text = given.get(name, str(default))
    if not (text.isdecimal() and 1 <= int(text) <= at_most):
        raise ServerFailed(f"{name} must be a whole number from 1 to {at_most}, not {text!r}")
    return int(text)

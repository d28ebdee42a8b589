"""What a look at a deployment finds, and how one broken check leaves the others alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Finding:
    """One line. `check` is a stable name, such as `redis.policy`; `advice` what to do, where something is to be done."""

    check: str
    state: str
    detail: str
    advice: str = ""


def ok(check: str, detail: str) -> Finding:
    return Finding(check, OK, detail)


def warn(check: str, detail: str, advice: str) -> Finding:
    return Finding(check, WARN, detail, advice)


def fail(check: str, detail: str, advice: str) -> Finding:
    return Finding(check, FAIL, detail, advice)


def findings_of(name: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """All that `look` finds until it ends, or breaks: that is a finding, too."""
    found: list[Finding] = []
    try:
        for finding in look():
            found.append(finding)
    except Exception as error:  # noqa: BLE001  whatever is wrong with one part, the others are looked at
        found.append(fail(name, f"could not be looked at ({type(error).__name__})", "Mend what is named above; server.log may say more."))
    return found

"""PEM files by setting: whether they can be used, and whether a failure to connect was about trust."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any


def refuse_unusable_pem(config: Mapping[str, Any], prefix: str) -> None:
    """Raises ValueError that names `<prefix>_CA_FILE` or `<prefix>_CERTIFICATE_FILE` where that is no such file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    loads: dict[str, Callable[[str], None]] = {
        f"{prefix}_CA_FILE": context.load_verify_locations,
        f"{prefix}_CERTIFICATE_FILE": context.load_cert_chain,
    }
    for key, load in loads.items():
        if not config[key]:
            continue
        try:
            load(config[key])
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(f"{key}: cannot use {config[key]} ({type(error).__name__})") from error


def is_about_trust(error: BaseException | None) -> bool:
    """Whether the other side's certificate was refused, as far as drivers tell."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False

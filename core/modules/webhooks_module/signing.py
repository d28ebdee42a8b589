"""The secret of a webhook, and the headers by which its receiver knows that a delivery is ours, whole and of now.

The names are our own and not those of Standard Webhooks (`webhook-signature`), whose libraries expect a signature over
the id, too, in Base64: one that looked the same and was another would be refused, or worse, not be checked.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

_SECRET_BYTES = 32
_VERSION = "v1"
EVENT_ID, EVENT_TYPE, DELIVERY_ID = "X-Credit-Event-Id", "X-Credit-Event-Type", "X-Credit-Delivery-Id"
TIMESTAMP, SIGNATURE = "X-Credit-Timestamp", "X-Credit-Signature"


def make_secret() -> str:
    """A new secret; all of its text, prefix included, is the key of the HMAC."""
    return f"whsec_{secrets.token_urlsafe(_SECRET_BYTES)}"


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """`v1=` and the hexadecimal HMAC-SHA256 (RFC 2104) over `timestamp.body`; `timestamp` in seconds since 1970."""
    signed = f"{timestamp}.".encode() + body
    return f"{_VERSION}={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


def delivery_headers(secret: str, timestamp: int, body: bytes, *, event_id: str, event_type: str, delivery_id: str) -> dict[str, str]:
    """What a delivery carries beside its body."""
    return {
        "Content-Type": "application/json",
        "User-Agent": "credit-system",
        EVENT_ID: event_id,
        EVENT_TYPE: event_type,
        DELIVERY_ID: delivery_id,
        TIMESTAMP: str(timestamp),
        SIGNATURE: signature(secret, timestamp, body),
    }

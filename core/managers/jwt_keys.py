"""The keys of tokens: from each line of the ring one of each kind and algorithm, each with an id that leads to nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from core.contracts import ACCESS, REFRESH
from utils.keys import derive

HS256, EDDSA = "HS256", "EdDSA"


@dataclass(frozen=True)
class TokenKey:
    """One key. It stands for one algorithm, so that no token can choose another for it."""

    id: str
    algorithm: str
    signing: bytes | Ed25519PrivateKey
    verifying: bytes | Ed25519PublicKey


@dataclass(frozen=True)
class TokenRing:
    """All keys of one value of JWT_SECRET, and what was verified with them; replaced as a whole."""

    # By kind: the key that signs.
    signers: dict[str, TokenKey]
    # By kind and key id.
    keys: dict[tuple[str, str], TokenKey]
    # Claims by kind and token: a signature stays right as long as its key does, and checking it costs more than the rest.
    verified: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, masters: Sequence[bytes], algorithm: str) -> TokenRing:
        """The ring of `masters` (newest first), of which the newest signs by `algorithm`."""
        made = [
            (kind, make_key(master, kind, algorithm)) for master in masters for kind in (ACCESS, REFRESH) for algorithm in (HS256, EDDSA)
        ]
        signers = {kind: make_key(masters[0], kind, algorithm) for kind in (ACCESS, REFRESH)}
        return cls(signers, {(kind, key.id): key for kind, key in made})

    def public_keys(self) -> list[dict[str, str]]:
        """JSON Web Keys (RFC 8037) with which others can verify access tokens; none while a shared key signs."""
        if self.signers[ACCESS].algorithm != EDDSA:
            return []
        public = {key.id: key.verifying for (kind, _), key in self.keys.items() if kind == ACCESS}
        return [_web_key(key_id, key) for key_id, key in public.items() if isinstance(key, Ed25519PublicKey)]


def make_key(master: bytes, kind: str, algorithm: str = HS256) -> TokenKey:
    """The key for tokens of `kind` and `algorithm` that comes from `master`."""
    key_id = _text(derive(master, f"jwt-id:{kind}:{algorithm}", 9))
    if algorithm == EDDSA:
        private = Ed25519PrivateKey.from_private_bytes(derive(master, f"jwt:{kind}:{algorithm}"))
        return TokenKey(key_id, algorithm, private, private.public_key())
    shared = derive(master, f"jwt:{kind}")
    return TokenKey(key_id, algorithm, shared, shared)


def _web_key(key_id: str, public: Ed25519PublicKey) -> dict[str, str]:
    return {"kty": "OKP", "crv": "Ed25519", "x": _text(public.public_bytes_raw()), "kid": key_id, "use": "sig", "alg": EDDSA}


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")

"""An authority of the tests' own, and what it vouches for: a server on 127.0.0.1, and a client."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files; `server` and `client` hold certificate and key. `stranger` is another authority, which vouches for nobody."""

    authority: Path
    server: Path
    client: Path
    stranger: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        key, authority = _authority("an authority")
        _, stranger = _authority("a stranger")
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(*(folder / f"{name}.pem" for name in ("authority", "server", "client", "stranger")))
        made.authority.write_bytes(authority.public_bytes(PEM))
        made.stranger.write_bytes(stranger.public_bytes(PEM))
        for path in (made.server, made.client):
            path.write_bytes(_vouched_for(path.stem, key, authority))
        return made


def _authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    basic = x509.BasicConstraints(ca=True, path_length=0)
    return key, _builder(name, key, name).add_extension(basic, critical=True).sign(key, hashes.SHA256())


def _vouched_for(name: str, issuer_key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    common = issuer.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    certificate = _builder(name, key, str(common)).add_extension(names, critical=False).sign(issuer_key, hashes.SHA256())
    plain = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(PEM) + plain


def _builder(name: str, key: ec.EllipticCurvePrivateKey, issuer: str) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    subject, by = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in (name, issuer))
    return x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1))

"""Certificate files for tests: an authority, and pairs of certificate and key that can be put in each other's place."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization import load_pem_private_key as load_key


class Pki:
    """One authority that server and clients trust, and the files of one client."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.folder = folder
        self.cert = folder / "tls.crt"
        self.key = folder / "tls.key"
        self.ca = folder / "ca.crt"
        self.authority.cert_pem.write_to_path(self.ca)

    def issue(self, name: str, *, days: int = 30) -> trustme.LeafCert:
        """Return a new certificate of a client; the name is its common name."""
        return self.authority.issue_cert(
            f"{name}.example", common_name=name, not_after=datetime.now(UTC) + timedelta(days=days)
        )

    def install(self, leaf: trustme.LeafCert) -> trustme.LeafCert:
        """Put a certificate and its key where the client's files are, each in one step."""
        for path, data in ((self.cert, chain(leaf)), (self.key, leaf.private_key_pem.bytes())):
            spare = path.with_suffix(".new")
            spare.write_bytes(data)
            os.replace(spare, path)
        return leaf

    def server_context(self) -> ssl.SSLContext:
        """Return the context of a server on 127.0.0.1 that demands a certificate of this authority."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        self.authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def chain(leaf: trustme.LeafCert) -> bytes:
    """Return a certificate with what leads to its authority, as PEM."""
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems)


def encrypted_key(leaf: trustme.LeafCert, password: str) -> bytes:
    """Return the key of a certificate as PEM that takes a password to read."""
    key = load_key(leaf.private_key_pem.bytes(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))

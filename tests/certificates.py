"""Certificates of tests, made at run time: authorities, servers and clients."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    secret: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key(self) -> str:
        return self._key(serialization.NoEncryption())

    @property
    def encrypted_key(self) -> str:
        return self._key(serialization.BestAvailableEncryption(b"hunter2"))

    def _key(self, encryption: serialization.KeySerializationEncryption) -> str:
        form = serialization.PrivateFormat.PKCS8
        return self.secret.private_bytes(serialization.Encoding.PEM, form, encryption).decode()

    def write(self, path: Path) -> Path:
        path.write_text(self.key + self.pem)
        return path

    def server_context(self, directory: Path, clients: "Issued | None" = None) -> ssl.SSLContext:
        """Return the context of a server with this certificate; with `clients`, only their authority's are let in."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.write(directory / f"{self.certificate.serial_number}.pem"))
        if clients is not None:
            context.load_verify_locations(cadata=clients.pem)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True)
class Authority(Issued):
    """A certificate authority."""

    @classmethod
    def make(cls, name: str = "Test CA") -> Self:
        secret = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(subject, subject, secret.public_key(), x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(secret.public_key()), critical=False)
        )
        return cls(builder.sign(secret, hashes.SHA256()), secret)

    def issue(self, *hosts: str, name: str = "client", expired: bool = False) -> Issued:
        """Return a certificate for these host names and addresses; without any, that of a client."""
        secret = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        end = now - DAY if expired else now + 10 * DAY
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(hosts[0] if hosts else name))
            .issuer_name(self.certificate.subject)
            .public_key(secret.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 5 * DAY)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.secret.public_key()), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_general, hosts))), critical=False)
        return Issued(builder.sign(self.secret, hashes.SHA256()), secret)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)

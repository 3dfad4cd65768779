"""Checks of certificates and keys that administrators paste as PEM. Each error is one sentence for the user."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from django.utils.translation import gettext as _

if TYPE_CHECKING:  # the library takes some MB of memory
    from cryptography import x509

MAX_CHARACTERS = 64 << 10
_BEGIN = "-----BEGIN"


class Unusable(ValueError):
    """The text cannot be used. The message is a sentence for the user."""


def authorities(text: str) -> str:
    """Return a bundle of CA certificates. Raises Unusable."""
    certificates = _certificates(text)
    if all(map(_has_expired, certificates)):
        raise Unusable(_expired(certificates[0]))
    return _only_certificates(certificates)


def of_client(text: str) -> str:
    """Return a client's certificate with its chain. Raises Unusable."""
    certificates = _certificates(text)
    if _has_expired(certificates[0]):
        raise Unusable(_expired(certificates[0]))
    return _only_certificates(certificates)


def key(text: str) -> str:
    """Return a private key. Raises Unusable."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    _check_form(text)
    try:
        load_pem_private_key(text.encode(), None)
    except TypeError:
        raise Unusable(_("The key is encrypted. Paste it without a passphrase; it is stored encrypted.")) from None
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable(_("This is not a private key in PEM format.")) from None
    return text.strip() + "\n"


def belong_together(certificate: str, private_key: str) -> bool:
    """Return True if the key is that of the first certificate."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    own = load_pem_private_key(private_key.encode(), None).public_key().public_bytes(*form)
    return own == _certificates(certificate)[0].public_key().public_bytes(*form)


def expiry(certificate: str) -> float:
    """Return when the first certificate expires, in seconds since 1970."""
    return _certificates(certificate)[0].not_valid_after_utc.timestamp()


def _certificates(text: str) -> "list[x509.Certificate]":
    from cryptography import x509

    if "PRIVATE KEY-----" in text:
        raise Unusable(_("This contains a private key. Paste only certificates here."))
    _check_form(text)
    try:
        return list(x509.load_pem_x509_certificates(text.encode()))
    except ValueError:
        raise Unusable(_("This is not a certificate in PEM format.")) from None


def _check_form(text: str) -> None:
    """Refuse what is no PEM at all: above all a path, which is never read."""
    if len(text) > MAX_CHARACTERS:
        raise Unusable(_("At most %(most)d KiB of PEM are stored.") % {"most": MAX_CHARACTERS >> 10})
    if _BEGIN not in text or not text.isascii():
        raise Unusable(_("This is not PEM. Paste the text from -----BEGIN to the last -----END line, not a path."))


def _only_certificates(certificates: "list[x509.Certificate]") -> str:
    """Return the certificates alone: other text of a file is not stored."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


def _has_expired(certificate: "x509.Certificate") -> bool:
    return certificate.not_valid_after_utc <= datetime.now(UTC)


def _expired(certificate: "x509.Certificate") -> str:
    return _("This certificate expired on %(day)s.") % {"day": certificate.not_valid_after_utc.date().isoformat()}

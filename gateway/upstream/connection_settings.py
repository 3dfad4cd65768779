"""How RouterDash connects to one endpoint: its proxy, certificates and extra headers, as administrators enter them.

They travel as one sealed text, as an upstream key does, because each part may be a secret.
"""

import msgspec


class ConnectionSettings(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """Settings of one endpoint. None and () are not set."""

    proxy_url: str | None = None  # with the login
    ca_bundle: str | None = None  # PEM; only these issuers are trusted
    client_certificate: str | None = None  # PEM, with its chain
    client_key: str | None = None  # PEM
    client_certificate_expires: float | None = None  # seconds since 1970
    headers: tuple[tuple[str, str], ...] = ()  # that each request gets

    def __repr__(self) -> str:
        """Name nothing but the type: each value may be a secret."""
        return "<ConnectionSettings>"

    def dump(self) -> str:
        return msgspec.json.encode(self).decode()

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that an endpoint may quote, and that nobody may read in its texts."""
        return tuple(value for _, value in self.headers)

    @property
    def is_plain(self) -> bool:
        """True if nothing is set."""
        return self == PLAIN


PLAIN = ConnectionSettings()


def load(text: str) -> ConnectionSettings:
    """Return the settings that `dump` has written. Raises ValueError."""
    try:
        return msgspec.json.decode(text, type=ConnectionSettings)
    except msgspec.MsgspecError:
        raise ValueError("its connection settings cannot be read") from None

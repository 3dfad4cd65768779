"""TLS certificate of the public port. Only processes that serve HTTPS import this: ssl takes 2 MiB."""

import logging
import ssl

from gateway.base.config import Config, ConfigError

log = logging.getLogger(__name__)


def tls_context(config: Config) -> ssl.SSLContext:
    """Return the TLS context of the listening socket. Raises ConfigError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    _load(context, config)
    return context


def _load(context: ssl.SSLContext, config: Config) -> None:
    """Load the certificate, also into a context in use, whose new connections then get it. Raises ConfigError."""
    assert config.tls_certificate is not None
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        names = " and ".join(str(path) for path in (config.tls_certificate, config.tls_key) if path)
        raise ConfigError(f"{names} do not contain a certificate and its key; see ROUTERDASH_TLS_CERTIFICATE") from None


class Certificate:
    """Watches the files of a TLS certificate that is in use."""

    def __init__(self, config: Config, context: ssl.SSLContext) -> None:
        self._config = config
        self._context = context
        self._loaded = self._times()

    def refresh(self) -> None:
        """Load a renewed certificate. Raises ConfigError: the old one remains in use."""
        times = self._times()
        if times != self._loaded:
            _load(self._context, self._config)
            self._loaded = times
            log.info("the renewed TLS certificate is in use")

    def _times(self) -> list[int]:
        paths = (self._config.tls_certificate, self._config.tls_key)
        return [path.stat().st_mtime_ns for path in paths if path is not None]

"""All settings in one table: variable, default, meaning and check, for the gateway and routerdash/settings.py.

A bad value raises ConfigError, whose text is one line that names the variable and its allowed values.
"""

import hashlib
import ipaddress
import os
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from gateway.base import secret_files
from gateway.base import setting_parsers as parsers
from gateway.base.currencies import currency as to_currency
from gateway.base.secret_files import FILE
from gateway.base.setting_parsers import IPNetwork, setting
from gateway.base.settings.retention import RetentionSettings, with_body_days

# A Unix socket's path has 108 bytes on Linux, 104 on macOS, with the closing zero.
SOCKET_PATH_BYTES = 100

ADAPTIVE, LEAST_INFLIGHT = "adaptive", "least_inflight"  # balancers
COMPILED_AUTO, COMPILED_OFF = "auto", "off"
AFFINITY_AUTO, AFFINITY_HEADER, AFFINITY_OFF = "auto", "header", "off"


class ConfigError(ValueError):
    """A setting has a value that cannot be used. The text is for the person who starts RouterDash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(RetentionSettings):
    """Values of all settings. `load` reads them from the environment; a Config is passed to the code that needs it."""

    host: str = setting(
        "ROUTERDASH_HOST", "127.0.0.1", parsers.text, "Address to listen on; 0.0.0.0 or :: for all addresses."
    )
    port: int = setting("ROUTERDASH_PORT", "32768", parsers.WholeNumber(1, 65535), "Port to listen on.")
    workers: int = setting("ROUTERDASH_WORKERS", "1", parsers.WholeNumber(1, 32), "Number of gateway processes.")
    compiled: str = setting(
        "ROUTERDASH_COMPILED",
        COMPILED_AUTO,
        parsers.OneOf((COMPILED_AUTO, COMPILED_OFF)),
        "`auto`: gateways run the code that `make compile` has built, if it was built from these sources. `off`: they "
        "run in Python.",
    )
    data_dir: Path = setting(
        "ROUTERDASH_DATA_DIR",
        "",
        parsers.data_dir,
        "Folder for database, journal, registry store and keys; created with mode 0700. Empty: `./data` in a "
        "checkout; after an installation `$XDG_DATA_HOME/routerdash`, else `~/.local/share/routerdash`.",
    )
    database_url: str = setting(
        "DATABASE_URL",
        "",
        parsers.database_url,
        "`sqlite:////absolute/path` or `postgres://user:password@host:port/name`; empty: SQLite in the data directory.",
        secret=True,
    )
    admin_username: str = setting(
        "ROUTERDASH_ADMIN_USERNAME", "admin", parsers.text, "Name of the first administrator."
    )
    admin_password: str = setting(
        "ROUTERDASH_ADMIN_PASSWORD",
        "",
        parsers.password,
        "Password of the first administrator; empty: one is generated and must be changed at the first login.",
        secret=True,
    )
    bootstrap_api_key: str = setting(
        "ROUTERDASH_BOOTSTRAP_API_KEY",
        "",
        parsers.bootstrap_key,
        "`sk_` and at least 32 letters or digits: an API key named `bootstrap` with all permissions, "
        "which exists while this is set.",
        secret=True,
    )
    bootstrap_external: bool = setting(
        "ROUTERDASH_BOOTSTRAP_EXTERNAL",
        "false",
        parsers.flag,
        "`true` lets the API key `bootstrap` use external endpoints, such as clouds.",
    )
    allowed_hosts: tuple[str, ...] = setting(
        "ROUTERDASH_ALLOWED_HOSTS",
        "",
        parsers.words,
        "Host names that requests may use, separated by commas; `.example.com` includes all subdomains. "
        "IP addresses, localhost, this machine's name and the host of the public URL are always allowed.",
    )
    public_url: str = setting(
        "ROUTERDASH_PUBLIC_URL",
        "",
        parsers.public_url,
        "URL that users open, if a TLS proxy is in front: trusted origin, secure cookies, snippets.",
    )
    tls_certificate: Path | None = setting(
        "ROUTERDASH_TLS_CERTIFICATE",
        "",
        parsers.existing_file,
        "PEM file with the certificate and its chain: RouterDash then serves HTTPS itself. A renewed "
        "certificate is loaded within ten seconds.",
    )
    tls_key: Path | None = setting(
        "ROUTERDASH_TLS_KEY",
        "",
        parsers.existing_file,
        "PEM file with the private key of the certificate; empty: the key is in the certificate's file.",
    )
    trusted_proxies: tuple[IPNetwork, ...] = setting(
        "ROUTERDASH_TRUSTED_PROXIES",
        "",
        parsers.networks,
        "Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted; empty: none.",
    )
    allow_link_local: bool = setting(
        "ROUTERDASH_ALLOW_LINK_LOCAL",
        "false",
        parsers.flag,
        "Allow endpoints at link-local addresses such as 169.254.1.2, where cloud metadata services are.",
    )
    endpoint_networks: tuple[IPNetwork, ...] = setting(
        "ROUTERDASH_ENDPOINT_NETWORKS",
        "",
        parsers.networks,
        "Addresses or networks in which endpoints are allowed; include 127.0.0.0/8,::1 for endpoints on "
        "this machine. Empty: all, except link-local and metadata addresses.",
    )
    discover_ports: tuple[int, ...] = setting(
        "ROUTERDASH_DISCOVER_PORTS",
        "11434,1234,8000,8080,9996",
        parsers.ports,
        "Ports of 127.0.0.1 where Discover searches for servers, separated by commas; the default has "
        "those of Ollama, LM Studio, vLLM, llama.cpp and xLLM.",
    )
    time_zone: str = setting(
        "ROUTERDASH_TIME_ZONE",
        "",
        parsers.time_zone,
        "Time zone of the daily figures; empty: the system's zone, else UTC.",
    )
    currency: str = setting(
        "ROUTERDASH_CURRENCY",
        "USD",
        to_currency,
        "Currency in which costs are summed (ISO 4217); those in others need a rate to it.",
    )
    language: str = setting(
        "ROUTERDASH_LANGUAGE", "en", parsers.OneOf(("en", "ja")), "Language for browsers that prefer neither."
    )
    health_check_interval: int = setting(
        "ROUTERDASH_HEALTH_CHECK_INTERVAL",
        "30",
        parsers.WholeNumber(1, 3600),
        "Seconds between health checks of an endpoint without an interval of its own.",
    )
    require_api_key: bool = setting(
        "ROUTERDASH_REQUIRE_API_KEY",
        "true",
        parsers.flag,
        "`false` allows `/v1` without an API key; only while listening on a loopback address.",
    )
    open_responses: bool = setting(
        "ROUTERDASH_OPEN_RESPONSES",
        "false",
        parsers.flag,
        "`true` lets every API key use stored responses and conversations without a known owner; those of"
        " another key stay protected.",
    )
    cors_origins: tuple[str, ...] = setting(
        "ROUTERDASH_CORS_ORIGINS",
        "",
        parsers.origins,
        "Origins whose pages may use `/v1` from a browser, separated by commas, such as "
        "`https://chat.example.com`; `*`: all; empty: none.",
    )
    session_idle_hours: int = setting(
        "ROUTERDASH_SESSION_IDLE_HOURS",
        "168",
        parsers.WholeNumber(1, 8760),
        "Hours of inactivity after which a viewer is logged out.",
    )
    admin_session_idle_hours: int = setting(
        "ROUTERDASH_ADMIN_SESSION_IDLE_HOURS",
        "12",
        parsers.WholeNumber(1, 8760),
        "Hours of inactivity after which an administrator is logged out.",
    )
    session_max_days: int = setting(
        "ROUTERDASH_SESSION_MAX_DAYS",
        "14",
        parsers.WholeNumber(1, 365),
        "Days after which every user has to log in again.",
    )
    hsts_seconds: int = setting(
        "ROUTERDASH_HSTS_SECONDS",
        "31536000",
        parsers.WholeNumber(0, 63_072_000),
        "With HTTPS: seconds for which browsers use only HTTPS for this host name, on any port (HSTS); 0:"
        " no HSTS header.",
    )
    max_keys_per_user: int = setting(
        "ROUTERDASH_MAX_KEYS_PER_USER",
        "50",
        parsers.WholeNumber(0, 100_000),
        "Maximum number of API keys per user; 0: unlimited. Existing keys stay valid.",
    )
    max_connections_per_client: int = setting(
        "ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT",
        "1000",
        parsers.WholeNumber(0, 1_000_000),
        "Maximum number of connections per client address and gateway process. Trusted proxies are "
        "exempt; 0: unlimited.",
    )
    max_buffered_mb: int = setting(
        "ROUTERDASH_MAX_BUFFERED_MB",
        "512",
        parsers.WholeNumber(128, 1 << 20),
        "Memory in MiB that a gateway process may use for unfinished requests and unsent responses; one "
        "API key or address may use half of it.",
    )
    store_bodies: str = setting(
        "ROUTERDASH_STORE_BODIES",
        "none",
        parsers.OneOf(("none", "errors", "all")),
        "Requests whose bodies are stored in the history, redacted and cut at 64 KiB.",
    )
    history: str = setting(
        "ROUTERDASH_HISTORY", "all", parsers.OneOf(("all", "errors")), "Requests that get a row in the history."
    )
    queue_max: int = setting(
        "ROUTERDASH_QUEUE_MAX",
        "100",
        parsers.WholeNumber(0, 100000),
        "Maximum number of requests in the queue; 0: no queue.",
    )
    queue_key_share: int = setting(
        "ROUTERDASH_QUEUE_KEY_SHARE",
        "50",
        parsers.WholeNumber(0, 100),
        "Percentage of the queue that requests of one API key may take, and one place more, unless it is the only key.",
    )
    queue_timeout_secs: int = setting(
        "ROUTERDASH_QUEUE_TIMEOUT_SECS",
        "300",
        parsers.WholeNumber(1, 3600),
        "Maximum time of a request in the queue, in seconds.",
    )
    plain_timeout_secs: int = setting(
        "ROUTERDASH_PLAIN_TIMEOUT_SECS",
        "600",
        parsers.WholeNumber(1, 86400),
        "Seconds that a response may take that is not streamed, from an endpoint whose `inference_timeout_secs` is the "
        "default, 120; any other value applies instead. After a timeout, such a request is not sent again.",
    )
    load_timeout_secs: float = setting(
        "ROUTERDASH_LOAD_TIMEOUT_SECS",
        "600",
        parsers.seconds,
        "Seconds until the response begins if the endpoint must load the model first, as far as its engine reports "
        "that; the endpoint's own timeout applies where it is longer.",
    )
    keepalive_secs: float = setting(
        "ROUTERDASH_KEEPALIVE_SECS",
        "15",
        parsers.seconds,
        "Seconds of silence after which a stream gets a comment, so that proxies keep the connection open; 0: never.",
    )
    route_headers: bool = setting(
        "ROUTERDASH_ROUTE_HEADERS",
        "true",
        parsers.flag,
        "Responses of `/v1` have headers with the endpoint, the attempts and the queue time: "
        "`x-routerdash-endpoint`, `-attempts` and `-queue-ms`; with adaptive routing also `-reason` and `-affinity`.",
    )
    drop_refused_tools: bool = setting(
        "ROUTERDASH_DROP_REFUSED_TOOLS",
        "true",
        parsers.flag,
        "If a server refuses the type of a tool, such as `web_search`, the request is sent again without it, and the "
        "response names it in `x-routerdash-dropped`. `false`: the client gets the server's error.",
    )
    balancer: str = setting(
        "ROUTERDASH_BALANCER",
        ADAPTIVE,
        parsers.OneOf((ADAPTIVE, LEAST_INFLIGHT)),
        "Strategy that chooses an endpoint: `adaptive` by what RouterDash has learned about the speed of each, "
        "`least_inflight` by the number of running requests alone.",
    )
    spill_after_secs: float = setting(
        "ROUTERDASH_SPILL_AFTER_SECS",
        "10",
        parsers.seconds,
        "Expected wait in seconds beyond which an endpoint without known slots counts as full, so that adaptive "
        "routing sends requests to the next tier; 0: as soon as a request would wait at all.",
    )
    affinity: str = setting(
        "ROUTERDASH_AFFINITY",
        AFFINITY_AUTO,
        parsers.OneOf((AFFINITY_AUTO, AFFINITY_HEADER, AFFINITY_OFF)),
        "How requests are recognized whose prompt an endpoint may have in its prefix cache: `auto` by the beginning of "
        "the prompt and by the session that a client names, `header` by the session alone; `off`: not at all. Keyed "
        "hashes are stored, no text.",
    )
    journal_fsync_secs: float = setting(
        "ROUTERDASH_JOURNAL_FSYNC_SECS",
        "0",
        parsers.seconds,
        "Seconds between fsyncs of the journal; 0: never (a crash of a process loses no record, a power cut may).",
    )
    journal_max_mb: int = setting(
        "ROUTERDASH_JOURNAL_MAX_MB",
        "1024",
        parsers.WholeNumber(16, 1 << 20),
        "Maximum disk space of a gateway's journal, in MiB.",
    )
    drain_secs: int = setting(
        "ROUTERDASH_DRAIN_SECS",
        "10",
        parsers.WholeNumber(0, 3600),
        "Seconds that open requests get to finish at a stop.",
    )
    encryption_keys: tuple[str, ...] = setting(
        "ROUTERDASH_ENCRYPTION_KEYS",
        "",
        parsers.words,
        "Fernet keys for upstream keys: the first one encrypts, all decrypt; empty: a key file in the data directory.",
        secret=True,
    )
    log_level: str = setting(
        "ROUTERDASH_LOG_LEVEL",
        "info",
        parsers.OneOf(("debug", "info", "warning", "error")),
        "Lowest level that is logged.",
    )
    log_format: str = setting("ROUTERDASH_LOG_FORMAT", "text", parsers.OneOf(("text", "json")), "Format of log lines.")
    in_container: bool = setting(
        "ROUTERDASH_IN_CONTAINER",
        "false",
        parsers.flag,
        "Set by the container image: warn about a data directory that is lost with the container.",
    )

    @property
    def loopback(self) -> bool:
        """Return True if only this machine can reach the port."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def scheme(self) -> str:
        """The scheme of clients that reach this port without a proxy."""
        return "http" if self.tls_certificate is None else "https"

    @property
    def https(self) -> bool:
        """Return True if browsers reach RouterDash by HTTPS, according to the settings."""
        return self.scheme == "https" or self.public_url.startswith("https://")

    @property
    def plain_http(self) -> bool:
        """Return True if passwords and keys of other machines cross the network without encryption."""
        return not self.loopback and not self.https

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def database_path(self) -> Path | None:
        """Path of the SQLite file; None if the database is PostgreSQL."""
        if not self.database_url:
            return self.data_dir / "routerdash.sqlite3"
        if self.database_url.startswith("sqlite:"):
            return Path(self.database_url.removeprefix("sqlite:///"))
        return None

    @property
    def journal_dir(self) -> Path:
        return self.data_dir / "journal"

    @property
    def responses_dir(self) -> Path:
        return self.data_dir / "responses"

    @property
    def registry_dir(self) -> Path:
        return self.data_dir / "registry"

    @property
    def live_page_path(self) -> Path:
        return self.data_dir / "live-page"  # another layout needs another name: older processes map the file

    @property
    def affinity_path(self) -> Path:
        return self.data_dir / "affinity"

    @property
    def affinity_key_file(self) -> Path:
        return self.data_dir / "affinity-key"

    @property
    def key_file(self) -> Path:
        return self.data_dir / "encryption-key"

    @property
    def control_socket(self) -> Path:
        """Path of control's socket: in the data directory if the path fits into a socket address."""
        path = self.data_dir / "control.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            return path
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"routerdash-{os.getuid()}-{digest}" / "control.sock"


def load(environ: Mapping[str, str]) -> Config:
    """Read every setting. Raises ConfigError for the first that cannot be used."""
    config = Config(**{item.name: _read(item.metadata, environ) for item in fields(Config)})
    config = with_body_days(config, environ)
    if not config.require_api_key and not config.loopback:
        raise ConfigError(
            f"ROUTERDASH_REQUIRE_API_KEY=false requires a loopback ROUTERDASH_HOST like 127.0.0.1, not {config.host!r}"
        )
    if config.ollama_port == config.port:
        raise ConfigError(
            f"ROUTERDASH_OLLAMA_PORT must be another port than that of ROUTERDASH_PORT, not '{config.port}'"
        )
    if not config.require_api_key and "*" in config.cors_origins:
        raise ConfigError("ROUTERDASH_REQUIRE_API_KEY=false requires named origins in ROUTERDASH_CORS_ORIGINS, not '*'")
    return config


def _read(meta: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    raw = environ.get(meta["name"], "").strip()
    if meta["secret"]:
        try:
            raw = secret_files.read(meta["name"], raw, environ)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    raw = raw or meta["default"]
    try:
        return meta["parse"](raw)
    except ValueError as error:
        shown = "the given value" if meta["secret"] else repr(raw)
        raise ConfigError(f"{meta['name']} must be {error}, not {shown}") from None


def secret_names() -> list[str]:
    """Return the variables of all secrets. A file may contain each instead, which NAME_FILE names."""
    return [item.metadata["name"] for item in fields(Config) if item.metadata["secret"]]


def for_a_child(environ: Mapping[str, str], config: Config, secrets: Collection[str]) -> dict[str, str]:
    """Return `environ` without other secrets than these, and with absolute paths: a child has another directory."""
    dropped = {name + end for name in secret_names() if name not in secrets for end in ("", FILE)}
    kept = {name: value for name, value in environ.items() if name not in dropped}
    for name in secrets:
        if named := kept.get(name + FILE, "").strip():
            kept[name + FILE] = str(Path(named).expanduser().absolute())
    for item in fields(Config):
        value = getattr(config, item.name)
        if isinstance(value, Path):
            kept[item.metadata["name"]] = str(value)
    return kept


def table() -> list[tuple[str, str, str]]:
    """Return every setting as (variable, default, meaning with the allowed values), for the documentation."""
    rows = []
    for meta in (item.metadata for item in fields(Config)):
        allowed = f" ({meta['parse']})" if isinstance(meta["parse"], parsers.OneOf | parsers.WholeNumber) else ""
        rows.append((meta["name"], meta["default"], meta["text"].removesuffix(".") + allowed + "."))
    return rows

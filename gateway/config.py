"""Every setting, in one table: its variable, default, meaning and check. For the gateway and routerdash/settings.py.

A bad value raises ConfigError, whose text is one line that names the variable and says what it takes.
"""

import hashlib
import ipaddress
import os
import re
import ssl
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# A Unix socket's path has 108 bytes on Linux, 104 on macOS, with the closing zero.
SOCKET_PATH_BYTES = 100

# Behind the name of a secret: the variable of a file that holds it.
FILE = "_FILE"

# The wheel has templates, static files and texts inside the package; a checkout has them at its top.
ASSETS = Path(__file__).resolve().parent.parent / "routerdash" / "assets"
INSTALLED = ASSETS.is_dir()


class ConfigError(ValueError):
    """A setting that cannot be used; the text is for the person who wrote it."""


def _text(raw: str) -> str:
    return raw


def _password(raw: str) -> str:
    if len(raw.encode()) > 72:
        raise ValueError("a password of at most 72 bytes")
    return raw


@dataclass(frozen=True)
class _Whole:
    """Parses a whole number. As text: its bounds, for the documentation."""

    low: int
    high: int

    def __call__(self, raw: str) -> int:
        if not raw.isascii() or not raw.isdigit() or not self.low <= int(raw) <= self.high:
            raise ValueError(f"a whole number from {self.low} to {self.high}")
        return int(raw)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"


def _seconds(raw: str) -> float:
    try:
        value = float(raw)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise ValueError("a number of seconds from 0 to 3600")
    return value


def _flag(raw: str) -> bool:
    value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(raw.lower())
    if value is None:
        raise ValueError("true or false")
    return value


@dataclass(frozen=True)
class _OneOf:
    """Parses one of a few words. As text: these, for the documentation."""

    words: tuple[str, ...]

    def __call__(self, raw: str) -> str:
        if raw.lower() not in self.words:
            raise ValueError("one of: " + ", ".join(self.words))
        return raw.lower()

    def __str__(self) -> str:
        return ", ".join(f"`{word}`" for word in self.words)


def _words(raw: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in raw.split(",")) if word)


def _ports(raw: str) -> tuple[int, ...]:
    try:
        return tuple(_Whole(1, 65535)(word) for word in _words(raw))
    except ValueError:
        raise ValueError("ports from 1 to 65535 separated by commas, for example 11434,8000") from None


def _networks(raw: str) -> tuple[IPNetwork, ...]:
    try:
        return tuple(ipaddress.ip_network(word, strict=False) for word in _words(raw))
    except ValueError:
        raise ValueError("addresses or networks separated by commas, for example 10.0.0.0/8,::1") from None


def _path(raw: str) -> Path:
    try:
        return Path(raw).expanduser().absolute()
    except RuntimeError:
        raise ValueError("a directory; there is no such user") from None


def _data_dir(raw: str) -> Path:
    return _path(raw) if raw else default_data_dir(os.environ, installed=INSTALLED)


def default_data_dir(environ: Mapping[str, str], *, installed: bool) -> Path:
    """Of the user by the XDG specification where RouterDash is installed, else beside the work. Raises ValueError."""
    if not installed:
        return Path("data").absolute()
    home = environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(home):  # the specification has relative paths ignored
        return Path(home) / "routerdash"
    try:
        return Path("~/.local/share/routerdash").expanduser()
    except RuntimeError:
        raise ValueError("a directory, because this user has no home directory") from None


def _file(raw: str) -> Path | None:
    if not raw:
        return None
    path = _path(raw)
    if not path.is_file():
        raise ValueError("a file that is there")
    return path


def _public_url(raw: str) -> str:
    parts = urlsplit(raw)
    if raw and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("a URL such as https://llm.example.com")
    return raw.rstrip("/")


_DATABASE_URLS = "sqlite:////absolute/path or postgres://user:password@host:port/name"


def _database_url(raw: str) -> str:
    scheme = raw.partition(":")[0]
    if raw and scheme not in ("sqlite", "postgres", "postgresql"):
        raise ValueError(_DATABASE_URLS)
    if scheme == "sqlite" and not raw.startswith("sqlite:////"):
        raise ValueError("an absolute path for SQLite, with four slashes: sqlite:////absolute/path")
    if scheme in ("postgres", "postgresql") and not _names_a_database(raw):
        raise ValueError(_DATABASE_URLS)
    return raw


def _names_a_database(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # its words would quote the password
        return False
    return bool(parts.path.strip("/")) and bool(parts.hostname or "host=" in parts.query)


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@,\"\\]+")


def _origins(raw: str) -> tuple[str, ...]:
    origins = tuple(word.rstrip("/").lower() for word in _words(raw))
    if not all(origin == "*" or (origin.isascii() and _ORIGIN.fullmatch(origin)) for origin in origins):
        raise ValueError("* or origins separated by commas, such as https://chat.example.com")
    return origins


def _time_zone(raw: str) -> str:
    if raw == "":
        return _system_time_zone()
    if raw not in available_timezones():
        raise ValueError("a time zone's name such as Asia/Tokyo")
    return raw


def _system_time_zone() -> str:
    """The machine's zone by name; UTC when it has none, so that a local date never depends on a guess."""
    candidates = [os.environ.get("TZ", "").lstrip(":")]
    try:
        candidates.append(Path("/etc/timezone").read_text().strip())
    except OSError:
        pass
    target = os.path.realpath("/etc/localtime")
    if "zoneinfo/" in target:
        candidates.append(target.split("zoneinfo/", 1)[1])
    names = available_timezones()
    found = next((name for name in candidates if name in names), "UTC")
    return "UTC" if found == "Etc/UTC" else found  # as Debian calls it; pages have one name for it


def _bootstrap_key(raw: str) -> str:
    if raw and (not raw.startswith("sk_") or len(raw) < 35 or not raw[3:].isascii() or not raw[3:].isalnum()):
        raise ValueError("sk_ and at least 32 letters and digits")
    return raw


def _setting(name: str, default: str, parse: Callable[[str], Any], text: str, *, secret: bool = False) -> Any:
    return field(
        repr=not secret, metadata={"name": name, "default": default, "parse": parse, "text": text, "secret": secret}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the environment says. Made by `load`; passed to whoever needs it."""

    host: str = _setting("ROUTERDASH_HOST", "127.0.0.1", _text, "Address to listen on; 0.0.0.0 or :: for all.")
    port: int = _setting("ROUTERDASH_PORT", "32768", _Whole(1, 65535), "Port to listen on.")
    workers: int = _setting("ROUTERDASH_WORKERS", "1", _Whole(1, 32), "Gateway processes.")
    data_dir: Path = _setting(
        "ROUTERDASH_DATA_DIR",
        "",
        _data_dir,
        "Database, journal, snapshot and keys; made with mode 0700. Empty: `./data` in a checkout; where RouterDash is "
        "installed, `$XDG_DATA_HOME/routerdash`, else `~/.local/share/routerdash`.",
    )
    database_url: str = _setting(
        "DATABASE_URL",
        "",
        _database_url,
        "`sqlite:////absolute/path` or `postgres://user:password@host:port/name`; else SQLite in the data directory.",
        secret=True,
    )
    redis_url: str = _setting(
        "REDIS_URL", "", _text, "Reserved for several machines; not used by this release.", secret=True
    )
    admin_username: str = _setting("ROUTERDASH_ADMIN_USERNAME", "admin", _text, "Name of the first administrator.")
    admin_password: str = _setting(
        "ROUTERDASH_ADMIN_PASSWORD",
        "",
        _password,
        "Password of the first administrator; else one is generated and must be changed at the first login.",
        secret=True,
    )
    bootstrap_api_key: str = _setting(
        "ROUTERDASH_BOOTSTRAP_API_KEY",
        "",
        _bootstrap_key,
        "`sk_` and at least 32 letters or digits: kept as an API key named `bootstrap` with all permissions while set.",
        secret=True,
    )
    allowed_hosts: tuple[str, ...] = _setting(
        "ROUTERDASH_ALLOWED_HOSTS",
        "",
        _words,
        "Host names that requests may name, separated by commas; `.example.com` for all below. "
        "IP addresses, localhost, this machine's name and the public URL's host always may.",
    )
    public_url: str = _setting(
        "ROUTERDASH_PUBLIC_URL",
        "",
        _public_url,
        "URL that people use, if a TLS proxy stands in front: trusted origin, secure cookies, snippets.",
    )
    tls_certificate: Path | None = _setting(
        "ROUTERDASH_TLS_CERTIFICATE",
        "",
        _file,
        "PEM file with the certificate and those it rests on: RouterDash then speaks HTTPS itself. Renewed ones are "
        "taken over within ten seconds.",
    )
    tls_key: Path | None = _setting(
        "ROUTERDASH_TLS_KEY", "", _file, "PEM file with the certificate's key; empty: it is in the certificate's file."
    )
    trusted_proxies: tuple[IPNetwork, ...] = _setting(
        "ROUTERDASH_TRUSTED_PROXIES",
        "",
        _networks,
        "Addresses or networks whose X-Forwarded-For and -Proto are believed; empty: nobody's.",
    )
    allow_link_local: bool = _setting(
        "ROUTERDASH_ALLOW_LINK_LOCAL",
        "false",
        _flag,
        "Endpoints may have link-local addresses such as 169.254.1.2 (cloud metadata services live there).",
    )
    endpoint_networks: tuple[IPNetwork, ...] = _setting(
        "ROUTERDASH_ENDPOINT_NETWORKS",
        "",
        _networks,
        "Addresses or networks in which endpoints may be, those of this machine (127.0.0.0/8,::1) among them if there "
        "are any; empty: anywhere, except at link-local and metadata addresses.",
    )
    discover_ports: tuple[int, ...] = _setting(
        "ROUTERDASH_DISCOVER_PORTS",
        "11434,1234,8000,8080,9996",
        _ports,
        "Ports of 127.0.0.1 where Discover looks for servers, separated by commas: by default those of Ollama, "
        "LM Studio, vLLM, llama.cpp and xLLM.",
    )
    time_zone: str = _setting(
        "ROUTERDASH_TIME_ZONE", "", _time_zone, "Zone of the daily figures; empty: the system's, else UTC."
    )
    language: str = _setting(
        "ROUTERDASH_LANGUAGE", "en", _OneOf(("en", "ja")), "Language for browsers that ask for neither."
    )
    health_check_interval: int = _setting(
        "ROUTERDASH_HEALTH_CHECK_INTERVAL",
        "30",
        _Whole(1, 3600),
        "Seconds between health checks of an endpoint that is created without its own interval.",
    )
    require_api_key: bool = _setting(
        "ROUTERDASH_REQUIRE_API_KEY",
        "true",
        _flag,
        "`false` lets anybody use `/v1`; only allowed while listening on a loopback address.",
    )
    open_responses: bool = _setting(
        "ROUTERDASH_OPEN_RESPONSES",
        "false",
        _flag,
        "`true` lets every API key ask endpoints for stored responses and conversations of which RouterDash does not "
        "know whose they are; those of another key stay closed.",
    )
    cors_origins: tuple[str, ...] = _setting(
        "ROUTERDASH_CORS_ORIGINS",
        "",
        _origins,
        "Origins of pages that may use `/v1` from a browser, separated by commas, such as `https://chat.example.com`; "
        "`*` for all; empty: none.",
    )
    session_idle_hours: int = _setting(
        "ROUTERDASH_SESSION_IDLE_HOURS",
        "168",
        _Whole(1, 8760),
        "Hours without use until a viewer is logged out.",
    )
    admin_session_idle_hours: int = _setting(
        "ROUTERDASH_ADMIN_SESSION_IDLE_HOURS",
        "12",
        _Whole(1, 8760),
        "Hours without use until an administrator is logged out.",
    )
    session_max_days: int = _setting(
        "ROUTERDASH_SESSION_MAX_DAYS", "14", _Whole(1, 365), "Days after which everybody has to log in again."
    )
    hsts_seconds: int = _setting(
        "ROUTERDASH_HSTS_SECONDS",
        "31536000",
        _Whole(0, 63_072_000),
        "Where RouterDash is reached by HTTPS: seconds that browsers use nothing else for its host name, on any port "
        "(HSTS); 0: they are not told so.",
    )
    max_keys_per_user: int = _setting(
        "ROUTERDASH_MAX_KEYS_PER_USER",
        "50",
        _Whole(0, 100_000),
        "Most API keys that a user may have; 0: no limit. Keys that exist go on.",
    )
    max_connections_per_client: int = _setting(
        "ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT",
        "1000",
        _Whole(0, 1_000_000),
        "Most connections that one address may have to a gateway process, but for trusted proxies; 0: no limit.",
    )
    max_buffered_mb: int = _setting(
        "ROUTERDASH_MAX_BUFFERED_MB",
        "512",
        _Whole(128, 1 << 20),
        "MiB that a gateway process keeps for unfinished requests and unsent responses; an API key or an address may "
        "have half of it.",
    )
    store_bodies: str = _setting(
        "ROUTERDASH_STORE_BODIES",
        "none",
        _OneOf(("none", "errors", "all")),
        "Which requests keep their bodies in the history, redacted and cut at 64 KiB.",
    )
    history: str = _setting(
        "ROUTERDASH_HISTORY", "all", _OneOf(("all", "errors")), "Which requests get a row in the history."
    )
    history_retention_days: int = _setting(
        "ROUTERDASH_HISTORY_RETENTION_DAYS", "7", _Whole(1, 3650), "Days that history rows are kept; figures stay."
    )
    client_retention_days: int = _setting(
        "ROUTERDASH_CLIENT_RETENTION_DAYS",
        "0",
        _Whole(0, 3650),
        "Whole days (UTC) after which clients' addresses are forgotten, in the history and in figures by client; "
        "0: in the history with its rows, else never.",
    )
    queue_max: int = _setting(
        "ROUTERDASH_QUEUE_MAX", "100", _Whole(0, 100000), "Requests that may wait for an endpoint at a time; 0: none."
    )
    queue_timeout_secs: int = _setting(
        "ROUTERDASH_QUEUE_TIMEOUT_SECS", "60", _Whole(1, 3600), "Seconds that a request waits for an endpoint at most."
    )
    keepalive_secs: float = _setting(
        "ROUTERDASH_KEEPALIVE_SECS",
        "15",
        _seconds,
        "Seconds of silence after which the client of a stream gets a comment, so that nothing on the way gives it up; "
        "0: never.",
    )
    route_headers: bool = _setting(
        "ROUTERDASH_ROUTE_HEADERS",
        "true",
        _flag,
        "Answers on `/v1` tell the endpoint, the attempts and the wait: `x-routerdash-endpoint`, `-attempts` and "
        "`-queue-ms`.",
    )
    balancer: str = _setting(
        "ROUTERDASH_BALANCER", "least_inflight", _OneOf(("least_inflight",)), "How an endpoint is chosen."
    )
    journal_fsync_secs: float = _setting(
        "ROUTERDASH_JOURNAL_FSYNC_SECS",
        "0",
        _seconds,
        "Seconds between fsyncs of the journal; 0: never (a crash of the process loses nothing, a power cut may).",
    )
    journal_max_mb: int = _setting(
        "ROUTERDASH_JOURNAL_MAX_MB", "1024", _Whole(16, 1 << 20), "Most disk, in MiB, that a gateway's journal takes."
    )
    drain_secs: int = _setting(
        "ROUTERDASH_DRAIN_SECS", "10", _Whole(0, 3600), "Seconds that open requests get to finish at a stop."
    )
    encryption_keys: tuple[str, ...] = _setting(
        "ROUTERDASH_ENCRYPTION_KEYS",
        "",
        _words,
        "Fernet keys for upstream secrets, first encrypts, all decrypt; else a key file in the data directory.",
        secret=True,
    )
    log_level: str = _setting(
        "ROUTERDASH_LOG_LEVEL", "info", _OneOf(("debug", "info", "warning", "error")), "Least important level logged."
    )
    log_format: str = _setting("ROUTERDASH_LOG_FORMAT", "text", _OneOf(("text", "json")), "Form of a log line.")
    in_container: bool = _setting(
        "ROUTERDASH_IN_CONTAINER",
        "false",
        _flag,
        "Set by the container image: a data directory that is lost with the container is then warned of.",
    )
    openai_api_key: str = _setting("OPENAI_API_KEY", "", _text, "Shown as present or not; not used yet.", secret=True)
    anthropic_api_key: str = _setting(
        "ANTHROPIC_API_KEY", "", _text, "Shown as present or not; not used yet.", secret=True
    )
    google_api_key: str = _setting("GOOGLE_API_KEY", "", _text, "Shown as present or not; not used yet.", secret=True)
    openai_base_url: str = _setting("OPENAI_BASE_URL", "https://api.openai.com", _public_url, "Not used yet.")
    anthropic_base_url: str = _setting("ANTHROPIC_BASE_URL", "https://api.anthropic.com", _public_url, "Not used yet.")
    google_base_url: str = _setting(
        "GOOGLE_BASE_URL", "https://generativelanguage.googleapis.com/v1beta", _public_url, "Not used yet."
    )

    @property
    def loopback(self) -> bool:
        """Can only this machine reach the port?"""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def scheme(self) -> str:
        """What clients that reach this port without a proxy speak."""
        return "http" if self.tls_certificate is None else "https"

    @property
    def https(self) -> bool:
        """Do browsers reach RouterDash by HTTPS, as far as the settings say?"""
        return self.scheme == "https" or self.public_url.startswith("https://")

    @property
    def plain_http(self) -> bool:
        """Do passwords and keys of other machines come over the network in the clear?"""
        return not self.loopback and not self.https

    def tls(self) -> ssl.SSLContext | None:
        """For the listening socket, None for plain HTTP. Raises ConfigError."""
        if self.tls_certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        load_certificate(context, self)
        return context

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def database_path(self) -> Path | None:
        """The SQLite file, or None when the database is PostgreSQL."""
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
    def snapshot_path(self) -> Path:
        return self.data_dir / "snapshot"

    @property
    def live_page_path(self) -> Path:
        return self.data_dir / "live"

    @property
    def key_file(self) -> Path:
        return self.data_dir / "encryption-key"

    @property
    def control_socket(self) -> Path:
        """Where control listens. Beside the data if the path fits into a socket address."""
        path = self.data_dir / "control.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            return path
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"routerdash-{os.getuid()}-{digest}" / "control.sock"


def load_certificate(context: ssl.SSLContext, config: Config) -> None:
    """Also of a context in use, whose new connections then get it. Raises ConfigError."""
    assert config.tls_certificate is not None
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key)
    except (OSError, ValueError):  # ssl.SSLError is one of the first
        names = " and ".join(str(path) for path in (config.tls_certificate, config.tls_key) if path)
        raise ConfigError(f"{names} hold no certificate with its key; see ROUTERDASH_TLS_CERTIFICATE") from None


def load(environ: Mapping[str, str]) -> Config:
    """Read every setting. Raises ConfigError for the first that cannot be used."""
    config = Config(**{item.name: _read(item.metadata, environ) for item in fields(Config)})
    if not config.require_api_key and not config.loopback:
        raise ConfigError(
            f"ROUTERDASH_REQUIRE_API_KEY=false needs a loopback ROUTERDASH_HOST such as 127.0.0.1, not {config.host!r}"
        )
    if not config.require_api_key and "*" in config.cors_origins:
        raise ConfigError("ROUTERDASH_REQUIRE_API_KEY=false needs ROUTERDASH_CORS_ORIGINS that are named, not '*'")
    return config


def _read(meta: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    raw = environ.get(meta["name"], "").strip()
    if meta["secret"]:
        raw = _secret(meta["name"], raw, environ)
    raw = raw or meta["default"]
    try:
        return meta["parse"](raw)
    except ValueError as error:
        found = "the value given" if meta["secret"] else repr(raw)
        raise ConfigError(f"{meta['name']} must be {error}, not {found}") from None


def _secret(name: str, raw: str, environ: Mapping[str, str]) -> str:
    """`raw`, or what stands in the file that NAME_FILE names, without white space around it. Raises ConfigError."""
    variable = name + FILE
    named = environ.get(variable, "").strip()
    if not named:
        return raw
    if raw:
        raise ConfigError(f"{name} and {variable} are both set; unset one of them")
    try:
        path = Path(named).expanduser()
        if not path.is_file():  # each process reads it again, so a pipe would not do
            raise ConfigError(f"{variable} must name a file that can be read, not {named!r}")
        found = path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{variable} names {named!r}, which cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, RuntimeError):  # of a file that holds no text, of a user that does not exist
        raise ConfigError(f"{variable} must name a file of text, not {named!r}") from None
    if not found:
        raise ConfigError(f"{variable} names {named!r}, which is empty")
    return found


def secret_names() -> list[str]:
    """The variables of all secrets. Each may be given by a file instead, which NAME_FILE names."""
    return [item.metadata["name"] for item in fields(Config) if item.metadata["secret"]]


def for_a_child(environ: Mapping[str, str], config: Config, secrets: Collection[str]) -> dict[str, str]:
    """`environ`, with no other secrets than these, and with whole paths: a child works in another directory."""
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
    """Every setting as (variable, default, meaning with the values allowed), for the documentation."""
    rows = []
    for meta in (item.metadata for item in fields(Config)):
        allowed = f" ({meta['parse']})" if isinstance(meta["parse"], _OneOf | _Whole) else ""
        rows.append((meta["name"], meta["default"], meta["text"].removesuffix(".") + allowed + "."))
    return rows

"""Parsers of settings. Each takes the text of a variable and returns its value, or raises ValueError with the values
that are allowed.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import available_timezones

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# The wheel has templates, static files and translations inside the package; a checkout has them at its top.
ASSETS = Path(__file__).resolve().parents[2] / "routerdash" / "assets"
INSTALLED = ASSETS.is_dir()


def setting(name: str, default: str, parse: Callable[[str], Any], text: str, *, secret: bool = False) -> Any:
    """Declare a setting as a field of a dataclass: variable, default, check and meaning."""
    return field(
        repr=not secret, metadata={"name": name, "default": default, "parse": parse, "text": text, "secret": secret}
    )


def text(raw: str) -> str:
    return raw


def password(raw: str) -> str:
    if len(raw.encode()) > 72:
        raise ValueError("a password of at most 72 bytes")
    return raw


@dataclass(frozen=True)
class WholeNumber:
    """Parser of a whole number. `str` returns its range, for the documentation."""

    low: int
    high: int

    def __call__(self, raw: str) -> int:
        if not raw.isascii() or not raw.isdigit() or not self.low <= int(raw) <= self.high:
            raise ValueError(f"a whole number from {self.low} to {self.high}")
        return int(raw)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"


def seconds(raw: str) -> float:
    try:
        value = float(raw)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise ValueError("a number of seconds from 0 to 3600")
    return value


def flag(raw: str) -> bool:
    value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(raw.lower())
    if value is None:
        raise ValueError("true or false")
    return value


@dataclass(frozen=True)
class OneOf:
    """Parser of one of a few words. `str` returns them, for the documentation."""

    choices: tuple[str, ...]

    def __call__(self, raw: str) -> str:
        if raw.lower() not in self.choices:
            raise ValueError("one of: " + ", ".join(self.choices))
        return raw.lower()

    def __str__(self) -> str:
        return ", ".join(f"`{word}`" for word in self.choices)


def words(raw: str) -> tuple[str, ...]:
    """Split a list that is separated by commas."""
    return tuple(word for word in (part.strip() for part in raw.split(",")) if word)


def ports(raw: str) -> tuple[int, ...]:
    try:
        return tuple(WholeNumber(1, 65535)(word) for word in words(raw))
    except ValueError:
        raise ValueError("ports from 1 to 65535 separated by commas, for example 11434,8000") from None


def networks(raw: str) -> tuple[IPNetwork, ...]:
    try:
        return tuple(ipaddress.ip_network(word, strict=False) for word in words(raw))
    except ValueError:
        raise ValueError("addresses or networks separated by commas, for example 10.0.0.0/8,::1") from None


def path(raw: str) -> Path:
    try:
        return Path(raw).expanduser().absolute()
    except RuntimeError:
        raise ValueError("a directory; there is no such user") from None


def data_dir(raw: str) -> Path:
    return path(raw) if raw else default_data_dir(os.environ, installed=INSTALLED)


def default_data_dir(environ: Mapping[str, str], *, installed: bool) -> Path:
    """Return the XDG data directory if RouterDash is installed, else ./data. Raises ValueError."""
    if not installed:
        return Path("data").absolute()
    home = environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(home):  # the specification has relative paths ignored
        return Path(home) / "routerdash"
    try:
        return Path("~/.local/share/routerdash").expanduser()
    except RuntimeError:
        raise ValueError("a directory, because this user has no home directory") from None


def existing_file(raw: str) -> Path | None:
    if not raw:
        return None
    file = path(raw)
    if not file.is_file():
        raise ValueError("a file that exists")
    return file


def public_url(raw: str) -> str:
    parts = urlsplit(raw)
    if raw and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("a URL such as https://llm.example.com")
    return raw.rstrip("/")


_DATABASE_URLS = "sqlite:////absolute/path or postgres://user:password@host:port/name"


def database_url(raw: str) -> str:
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
    except ValueError:  # its message would quote the password
        return False
    return bool(parts.path.strip("/")) and bool(parts.hostname or "host=" in parts.query)


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@,\"\\]+")


def origins(raw: str) -> tuple[str, ...]:
    origins = tuple(word.rstrip("/").lower() for word in words(raw))
    if not all(origin == "*" or (origin.isascii() and _ORIGIN.fullmatch(origin)) for origin in origins):
        raise ValueError("* or origins separated by commas, such as https://chat.example.com")
    return origins


def time_zone(raw: str) -> str:
    if raw == "":
        return _system_time_zone()
    if raw not in available_timezones():
        raise ValueError("a time zone's name such as Asia/Tokyo")
    return raw


def _system_time_zone() -> str:
    """Return the name of the machine's time zone; UTC if it has none, so that a local date never depends on a guess."""
    candidates = [os.environ.get("TZ", "").lstrip(":")]
    try:
        candidates.append(Path("/etc/timezone").read_text().strip())
    except OSError:
        pass
    target = os.path.realpath("/etc/localtime")
    if "zoneinfo/" in target:
        candidates.append(target.split("zoneinfo/", 1)[1])
    names = available_timezones()
    zone = next((name for name in candidates if name in names), "UTC")
    return "UTC" if zone == "Etc/UTC" else zone  # Debian's name for UTC; pages use one name


def bootstrap_key(raw: str) -> str:
    if raw and (not raw.startswith("sk_") or len(raw) < 35 or not raw[3:].isascii() or not raw[3:].isalnum()):
        raise ValueError("sk_ and at least 32 letters and digits")
    return raw

import ipaddress
import os
from pathlib import Path

import pytest

from gateway.base.config import SOCKET_PATH_BYTES, ConfigError, for_a_child, load, secret_names, table
from gateway.base.connecting.forward_proxy import ForwardProxy, NoProxy
from gateway.base.setting_parsers import default_data_dir
from gateway.base.settings.retention import HISTORY_DAYS

# variable, value in the environment, field, parsed value
GOOD = [
    ("ROUTERDASH_HOST", "0.0.0.0", "host", "0.0.0.0"),
    ("ROUTERDASH_PORT", "1", "port", 1),
    ("ROUTERDASH_PORT", "65535", "port", 65535),
    ("ROUTERDASH_PORT", " 8080 ", "port", 8080),
    ("ROUTERDASH_WORKERS", "32", "workers", 32),
    ("ROUTERDASH_COMPILED", "off", "compiled", "off"),
    ("ROUTERDASH_DATA_DIR", "/srv/routerdash", "data_dir", Path("/srv/routerdash")),
    ("ROUTERDASH_DATA_DIR", "here", "data_dir", Path.cwd() / "here"),
    ("ROUTERDASH_DATA_DIR", "~/there", "data_dir", Path.home() / "there"),
    ("DATABASE_URL", "sqlite:////srv/main.sqlite3", "database_url", "sqlite:////srv/main.sqlite3"),
    ("DATABASE_URL", "postgres://me:secret@db/main", "database_url", "postgres://me:secret@db/main"),
    ("DATABASE_URL", "postgresql://db/main", "database_url", "postgresql://db/main"),
    ("ROUTERDASH_ADMIN_USERNAME", "root", "admin_username", "root"),
    ("ROUTERDASH_ADMIN_PASSWORD", "pass word", "admin_password", "pass word"),
    ("ROUTERDASH_BOOTSTRAP_API_KEY", "sk_" + "a1" * 16, "bootstrap_api_key", "sk_" + "a1" * 16),
    ("ROUTERDASH_BOOTSTRAP_EXTERNAL", "true", "bootstrap_external", True),
    ("ROUTERDASH_ALLOWED_HOSTS", "one, .two ,,", "allowed_hosts", ("one", ".two")),
    ("ROUTERDASH_TLS_CERTIFICATE", __file__, "tls_certificate", Path(__file__)),
    ("ROUTERDASH_TLS_KEY", __file__, "tls_key", Path(__file__)),
    ("ROUTERDASH_PUBLIC_URL", "https://llm.example/", "public_url", "https://llm.example"),
    ("ROUTERDASH_TRUSTED_PROXIES", "10.1.2.3/8", "trusted_proxies", (ipaddress.ip_network("10.0.0.0/8"),)),
    (
        "ROUTERDASH_TRUSTED_PROXIES",
        "::1, 192.0.2.7",
        "trusted_proxies",
        (ipaddress.ip_network("::1/128"), ipaddress.ip_network("192.0.2.7/32")),
    ),
    ("ROUTERDASH_DISCOVER_PORTS", "11434, 8000", "discover_ports", (11434, 8000)),
    ("ROUTERDASH_TIME_ZONE", "Asia/Tokyo", "time_zone", "Asia/Tokyo"),
    ("ROUTERDASH_CURRENCY", "eur", "currency", "EUR"),
    ("ROUTERDASH_LANGUAGE", "JA", "language", "ja"),
    ("ROUTERDASH_HEALTH_CHECK_INTERVAL", "3600", "health_check_interval", 3600),
    ("ROUTERDASH_REQUIRE_API_KEY", "no", "require_api_key", False),
    ("ROUTERDASH_REQUIRE_API_KEY", "TRUE", "require_api_key", True),
    ("ROUTERDASH_OPEN_RESPONSES", "true", "open_responses", True),
    ("ROUTERDASH_CORS_ORIGINS", "*", "cors_origins", ("*",)),
    (
        "ROUTERDASH_CORS_ORIGINS",
        "https://Chat.example.com/, http://localhost:3000,tauri://localhost,http://[::1]:80",
        "cors_origins",
        ("https://chat.example.com", "http://localhost:3000", "tauri://localhost", "http://[::1]:80"),
    ),
    ("ROUTERDASH_SESSION_IDLE_HOURS", "24", "session_idle_hours", 24),
    ("ROUTERDASH_ADMIN_SESSION_IDLE_HOURS", "1", "admin_session_idle_hours", 1),
    ("ROUTERDASH_SESSION_MAX_DAYS", "30", "session_max_days", 30),
    ("ROUTERDASH_HSTS_SECONDS", "0", "hsts_seconds", 0),
    ("ROUTERDASH_MAX_KEYS_PER_USER", "0", "max_keys_per_user", 0),
    ("ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT", "0", "max_connections_per_client", 0),
    ("ROUTERDASH_MAX_BUFFERED_MB", "256", "max_buffered_mb", 256),
    ("ROUTERDASH_ALLOW_LINK_LOCAL", "true", "allow_link_local", True),
    (
        "ROUTERDASH_ENDPOINT_NETWORKS",
        "10.0.0.0/8, ::1",
        "endpoint_networks",
        (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1")),
    ),
    (
        "ROUTERDASH_UPSTREAM_PROXY",
        "http://me:p%40ss@proxy.example:3128",
        "upstream_proxy",
        ForwardProxy("proxy.example", 3128, ("me", "p@ss")),
    ),
    (
        "ROUTERDASH_UPSTREAM_NO_PROXY",
        "*.Internal, .example.com,gpu,10.0.0.0/8,[::1],192.0.2.1",
        "upstream_no_proxy",
        NoProxy(
            networks=tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "::1", "192.0.2.1"))),
            names=("internal", "example.com", "gpu"),
        ),
    ),
    ("ROUTERDASH_UPSTREAM_NO_PROXY", "*", "upstream_no_proxy", NoProxy(everything=True)),
    ("ROUTERDASH_STORE_BODIES", "errors", "store_bodies", "errors"),
    ("ROUTERDASH_HISTORY", "errors", "history", "errors"),
    ("ROUTERDASH_HISTORY_RETENTION_DAYS", "3650", "history_retention_days", 3650),
    ("ROUTERDASH_BODY_RETENTION_DAYS", "12", "body_retention_days", 12),
    ("ROUTERDASH_CLIENT_RETENTION_DAYS", "30", "client_retention_days", 30),
    ("ROUTERDASH_QUEUE_MAX", "0", "queue_max", 0),
    ("ROUTERDASH_QUEUE_KEY_SHARE", "12", "queue_key_share", 12),
    ("ROUTERDASH_QUEUE_TIMEOUT_SECS", "1", "queue_timeout_secs", 1),
    ("ROUTERDASH_PLAIN_TIMEOUT_SECS", "900", "plain_timeout_secs", 900),
    ("ROUTERDASH_LOAD_TIMEOUT_SECS", "900", "load_timeout_secs", 900.0),
    ("ROUTERDASH_KEEPALIVE_SECS", "0", "keepalive_secs", 0.0),
    ("ROUTERDASH_ROUTE_HEADERS", "false", "route_headers", False),
    ("ROUTERDASH_BALANCER", "adaptive", "balancer", "adaptive"),
    ("ROUTERDASH_SPILL_AFTER_SECS", "2.5", "spill_after_secs", 2.5),
    ("ROUTERDASH_AFFINITY", "header", "affinity", "header"),
    ("ROUTERDASH_DROP_REFUSED_TOOLS", "false", "drop_refused_tools", False),
    ("ROUTERDASH_JOURNAL_FSYNC_SECS", "0.5", "journal_fsync_secs", 0.5),
    ("ROUTERDASH_JOURNAL_MAX_MB", "16", "journal_max_mb", 16),
    ("ROUTERDASH_DRAIN_SECS", "0", "drain_secs", 0),
    ("ROUTERDASH_ENCRYPTION_KEYS", "one,two", "encryption_keys", ("one", "two")),
    ("ROUTERDASH_LOG_LEVEL", "DEBUG", "log_level", "debug"),
    ("ROUTERDASH_LOG_FORMAT", "json", "log_format", "json"),
    ("ROUTERDASH_IN_CONTAINER", "true", "in_container", True),
    ("ROUTERDASH_ENV_ENDPOINTS", "true", "env_endpoints", True),
    ("ROUTERDASH_OLLAMA_PORT", "11434", "ollama_port", 11434),
    ("ROUTERDASH_OLLAMA_KEEP_ALIVE", "pass", "ollama_keep_alive", "pass"),
    ("OPENAI_API_KEY", "key", "openai_api_key", "key"),
    ("ANTHROPIC_AUTH_TOKEN", "key", "anthropic_auth_token", "key"),
    ("GEMINI_API_KEY", "key", "gemini_api_key", "key"),
    ("AZURE_OPENAI_API_KEY", "key", "azure_openai_api_key", "key"),
    ("OPENROUTER_API_KEY", "key", "openrouter_api_key", "key"),
    ("GROQ_API_KEY", "key", "groq_api_key", "key"),
    ("MISTRAL_API_KEY", "key", "mistral_api_key", "key"),
    ("DEEPSEEK_API_KEY", "key", "deepseek_api_key", "key"),
    ("XAI_API_KEY", "key", "xai_api_key", "key"),
    ("TOGETHER_API_KEY", "key", "together_api_key", "key"),
    ("AZURE_OPENAI_ENDPOINT", "https://a.openai.azure.com/", "azure_openai_endpoint", "https://a.openai.azure.com"),
    ("OPENAI_API_VERSION", "2024-10-21", "openai_api_version", "2024-10-21"),
    ("ANTHROPIC_API_KEY", "key", "anthropic_api_key", "key"),
    ("GOOGLE_API_KEY", "key", "google_api_key", "key"),
    ("OPENAI_BASE_URL", "http://localhost:1/", "openai_base_url", "http://localhost:1"),
    ("ANTHROPIC_BASE_URL", "http://localhost:1", "anthropic_base_url", "http://localhost:1"),
    ("GOOGLE_BASE_URL", "http://localhost:1", "google_base_url", "http://localhost:1"),
]

BAD = [
    ("ROUTERDASH_DISCOVER_PORTS", "8000,0"),
    ("ROUTERDASH_DISCOVER_PORTS", "http://10.0.0.1:8000"),
    ("ROUTERDASH_PORT", "0"),
    ("ROUTERDASH_PORT", "65536"),
    ("ROUTERDASH_PORT", "-1"),
    ("ROUTERDASH_PORT", "80.5"),
    ("ROUTERDASH_PORT", "http"),
    ("ROUTERDASH_PORT", "８０"),  # digits, but not ASCII
    ("ROUTERDASH_OLLAMA_PORT", "65536"),
    ("ROUTERDASH_OLLAMA_PORT", "32768"),  # that of ROUTERDASH_PORT
    ("ROUTERDASH_OLLAMA_KEEP_ALIVE", "never"),
    ("ROUTERDASH_WORKERS", "0"),
    ("ROUTERDASH_COMPILED", "yes"),
    ("ROUTERDASH_WORKERS", "33"),
    ("DATABASE_URL", "mysql://me:hunter2@db/main"),
    ("DATABASE_URL", "sqlite:///hunter2.sqlite3"),
    ("DATABASE_URL", "hunter2.sqlite3"),
    ("DATABASE_URL", "postgres://"),
    ("DATABASE_URL", "postgres://me:hunter2@db"),
    ("DATABASE_URL", "postgres:///hunter2"),
    ("DATABASE_URL", "postgres://[hunter2/main"),
    ("ROUTERDASH_BOOTSTRAP_API_KEY", "sk_hunter2"),
    ("ROUTERDASH_BOOTSTRAP_API_KEY", "hunter2" * 6),
    ("ROUTERDASH_BOOTSTRAP_API_KEY", "sk_" + "hunter2-" * 6),
    ("ROUTERDASH_BOOTSTRAP_API_KEY", "sk_" + "é" * 40),
    ("ROUTERDASH_PUBLIC_URL", "llm.example"),
    ("ROUTERDASH_PUBLIC_URL", "ftp://llm.example"),
    ("ROUTERDASH_PUBLIC_URL", "https://"),
    ("ROUTERDASH_TRUSTED_PROXIES", "proxy.example"),
    ("ROUTERDASH_TRUSTED_PROXIES", "10.0.0.0/33"),
    ("ROUTERDASH_TIME_ZONE", "Mars/Base"),
    ("ROUTERDASH_CURRENCY", "DEM"),
    ("ROUTERDASH_LANGUAGE", "de"),
    ("ROUTERDASH_HEALTH_CHECK_INTERVAL", "0"),
    ("ROUTERDASH_HEALTH_CHECK_INTERVAL", "3601"),
    ("ROUTERDASH_REQUIRE_API_KEY", "maybe"),
    ("ROUTERDASH_CORS_ORIGINS", "chat.example.com"),
    ("ROUTERDASH_CORS_ORIGINS", "https://chat.example.com/path"),
    ("ROUTERDASH_CORS_ORIGINS", "null"),
    ("ROUTERDASH_MAX_CONNECTIONS_PER_CLIENT", "-1"),
    ("ROUTERDASH_MAX_BUFFERED_MB", "64"),
    ("ROUTERDASH_ALLOW_LINK_LOCAL", "perhaps"),
    ("ROUTERDASH_UPSTREAM_PROXY", "proxy.example:3128"),
    ("ROUTERDASH_UPSTREAM_PROXY", "http://hunter2@proxy.example"),
    ("ROUTERDASH_UPSTREAM_PROXY", "https://me:hunter2@proxy.example:3128"),
    ("ROUTERDASH_UPSTREAM_PROXY", "socks5://me:hunter2@proxy.example:1080"),
    ("ROUTERDASH_UPSTREAM_PROXY", "http://me:hunter2@[proxy:3128"),
    ("ROUTERDASH_UPSTREAM_NO_PROXY", "10.0.0.0/33"),
    ("ROUTERDASH_UPSTREAM_NO_PROXY", "10.0.0.256"),
    ("ROUTERDASH_UPSTREAM_NO_PROXY", "gpu:8000"),
    ("ROUTERDASH_UPSTREAM_NO_PROXY", "http://gpu"),
    ("ROUTERDASH_UPSTREAM_NO_PROXY", "gpu box"),
    ("ROUTERDASH_STORE_BODIES", "some"),
    ("ROUTERDASH_HISTORY", "none"),
    ("ROUTERDASH_HISTORY_RETENTION_DAYS", "0"),
    ("ROUTERDASH_QUEUE_MAX", "100001"),
    ("ROUTERDASH_QUEUE_KEY_SHARE", "101"),
    ("ROUTERDASH_QUEUE_TIMEOUT_SECS", "0"),
    ("ROUTERDASH_PLAIN_TIMEOUT_SECS", "0"),
    ("ROUTERDASH_BODY_RETENTION_DAYS", "3651"),
    ("ROUTERDASH_KEEPALIVE_SECS", "-1"),
    ("ROUTERDASH_ROUTE_HEADERS", "maybe"),
    ("ROUTERDASH_BALANCER", "random"),
    ("ROUTERDASH_JOURNAL_FSYNC_SECS", "-1"),
    ("ROUTERDASH_JOURNAL_FSYNC_SECS", "nan"),
    ("ROUTERDASH_JOURNAL_FSYNC_SECS", "soon"),
    ("ROUTERDASH_JOURNAL_MAX_MB", "15"),
    ("ROUTERDASH_DRAIN_SECS", "3601"),
    ("ROUTERDASH_LOG_LEVEL", "loud"),
    ("ROUTERDASH_LOG_FORMAT", "xml"),
    ("OPENAI_BASE_URL", "api.example"),
    ("ANTHROPIC_BASE_URL", "api.example"),
    ("GOOGLE_BASE_URL", "api.example"),
]


@pytest.mark.parametrize(("variable", "raw", "field", "value"), GOOD)
def test_a_valid_value_is_read(variable, raw, field, value):
    assert getattr(load({variable: raw}), field) == value


def test_every_setting_has_a_valid_value_in_the_table():
    assert {variable for variable, *_ in GOOD} == {name for name, _, _ in table()}


@pytest.mark.parametrize(("variable", "raw"), BAD)
def test_an_invalid_value_is_refused_in_one_line_with_the_variable(variable, raw):
    with pytest.raises(ConfigError) as caught:
        load({variable: raw})
    assert str(caught.value).startswith(f"{variable} must be ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("variable", "raw"), [pair for pair in BAD if "hunter2" in pair[1]])
def test_an_error_never_shows_a_secret(variable, raw):
    with pytest.raises(ConfigError) as caught:
        load({variable: raw})
    assert "hunter2" not in str(caught.value)


def test_an_error_shows_the_value_if_it_is_not_a_secret():
    with pytest.raises(ConfigError, match="a whole number from 1 to 65535, not 'eighty'"):
        load({"ROUTERDASH_PORT": "eighty"})


@pytest.mark.parametrize("raw", ["", "  ", "\t"])
def test_an_empty_variable_counts_as_unset(raw):
    assert load({"ROUTERDASH_PORT": raw}) == load({})


def test_defaults():
    config = load({})
    assert (config.host, config.port, config.workers) == ("127.0.0.1", 32768, 1)
    assert config.data_dir == Path.cwd() / "data"
    assert config.require_api_key
    assert not config.allow_link_local
    assert config.store_bodies == "none"
    assert config.trusted_proxies == ()


def test_the_table_describes_each_setting_once():
    names = [name for name, _, _ in table()]
    assert len(names) == len(set(names))
    assert all(text.endswith(".") for _, _, text in table())


def test_every_default_is_a_valid_value():
    given = {name: default for name, default, _ in table() if default}
    del given[HISTORY_DAYS]  # whether it is set decides for how long bodies are kept
    assert load(given) == load({})


@pytest.mark.parametrize(
    ("history", "bodies", "days"),
    [("", "", 7), ("30", "", 30), ("90", "", 90), ("3", "", 3), ("", "12", 12), ("90", "12", 12), ("3", "12", 3)],
)
def test_bodies_are_kept_for_a_week_unless_settings_say_otherwise(history, bodies, days):
    """An installation that has set the days of its history keeps the bodies of that time at an upgrade."""
    config = load({HISTORY_DAYS: history, "ROUTERDASH_BODY_RETENTION_DAYS": bodies})
    assert config.body_days == days


# /v1 without keys is allowed only on loopback addresses


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "router.example", "8.8.8.8"])
def test_access_without_keys_requires_a_loopback_address(host):
    with pytest.raises(ConfigError, match=r"^ROUTERDASH_REQUIRE_API_KEY=false requires a loopback ROUTERDASH_HOST"):
        load({"ROUTERDASH_REQUIRE_API_KEY": "false", "ROUTERDASH_HOST": host})


def test_access_without_keys_and_all_cors_origins_are_refused_together():
    with pytest.raises(ConfigError, match=r"^ROUTERDASH_REQUIRE_API_KEY=false requires named origins in ROUTERDASH"):
        load({"ROUTERDASH_REQUIRE_API_KEY": "false", "ROUTERDASH_CORS_ORIGINS": "*"})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_access_without_keys_on_a_loopback_address(host):
    config = load({"ROUTERDASH_REQUIRE_API_KEY": "false", "ROUTERDASH_HOST": host})
    assert config.loopback
    assert not config.require_api_key


def test_with_keys_any_address_is_allowed():
    assert not load({"ROUTERDASH_HOST": "0.0.0.0"}).loopback


# Derived settings


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("", "/srv/data/routerdash.sqlite3"),
        ("sqlite:////elsewhere/main.sqlite3", "/elsewhere/main.sqlite3"),
        ("postgres://db/main", None),
    ],
)
def test_database_path(url, path):
    config = load({"ROUTERDASH_DATA_DIR": "/srv/data", "DATABASE_URL": url})
    assert config.database_path == (path and Path(path))


def test_files_are_in_the_data_directory():
    config = load({"ROUTERDASH_DATA_DIR": "/srv/data"})
    paths = (config.journal_dir, config.registry_dir, config.live_page_path, config.key_file, config.control_socket)
    assert {path.parent for path in paths} == {Path("/srv/data")}
    assert len(set(paths)) == 5


def test_a_control_socket_with_a_long_path_is_in_another_directory():
    one, other = (load({"ROUTERDASH_DATA_DIR": f"/srv/{name * SOCKET_PATH_BYTES}"}) for name in "ab")
    assert len(os.fsencode(one.control_socket)) <= SOCKET_PATH_BYTES
    assert one.control_socket.parent != other.control_socket.parent
    assert one.control_socket == load({"ROUTERDASH_DATA_DIR": str(one.data_dir)}).control_socket


def test_the_longest_path_that_fits_is_kept():
    room = SOCKET_PATH_BYTES - len("/control.sock")
    fits, long = (load({"ROUTERDASH_DATA_DIR": "/" + "é" * (room // 2) + "x" * more}) for more in (0, 2))
    assert fits.control_socket.parent == fits.data_dir
    assert long.control_socket.parent != long.data_dir


def test_utc_has_one_name(monkeypatch):
    monkeypatch.setenv("TZ", "Etc/UTC")
    assert load({}).time_zone == "UTC"


def test_the_systems_time_zone_by_default(monkeypatch):
    monkeypatch.setenv("TZ", ":Asia/Tokyo")
    assert load({}).zone.key == "Asia/Tokyo"


def test_a_system_without_a_valid_time_zone_gets_a_default(monkeypatch):
    monkeypatch.setenv("TZ", "nonsense")
    assert load({}).zone.key


@pytest.mark.parametrize("name", ["SESSION_IDLE_HOURS", "ADMIN_SESSION_IDLE_HOURS", "SESSION_MAX_DAYS"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "ever", "100000"])
def test_the_session_lifetime_has_bounds(name, value):
    with pytest.raises(ConfigError, match=f"ROUTERDASH_{name} must be a whole number from 1 to"):
        load({f"ROUTERDASH_{name}": value})


@pytest.mark.parametrize(
    ("environment", "plain"),
    [
        ({}, False),
        ({"ROUTERDASH_HOST": "localhost"}, False),
        ({"ROUTERDASH_HOST": "::"}, True),
        ({"ROUTERDASH_HOST": "::", "ROUTERDASH_PUBLIC_URL": "http://llm.local"}, True),
        ({"ROUTERDASH_HOST": "::", "ROUTERDASH_PUBLIC_URL": "https://llm.example.com"}, False),
    ],
)
def test_plain_http_means_access_from_other_machines_without_tls(environment, plain):
    assert load(environment).plain_http is plain


# Secrets in files

SECRETS = sorted({(name, raw, field, value) for name, raw, field, value in GOOD if name in secret_names()})


def test_every_secret_setting_is_tested():
    assert {name for name, *_ in SECRETS} == set(secret_names())


@pytest.mark.parametrize(("variable", "raw", "field", "value"), SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_is_read_from_the_file_that_its_file_variable_names(tmp_path, variable, raw, field, value, end):
    path = tmp_path / "secret"
    path.write_bytes((raw + end).encode())
    assert getattr(load({f"{variable}_FILE": str(path)}), field) == value


@pytest.mark.parametrize("variable", ["ROUTERDASH_PORT", "ROUTERDASH_TLS_CERTIFICATE", "ROUTERDASH_ADMIN_USERNAME"])
def test_only_secrets_have_a_file_variable(tmp_path, variable):
    assert load({f"{variable}_FILE": str(tmp_path / "missing")}) == load({})


def refused_file(variable, path, **environ):
    with pytest.raises(ConfigError) as caught:
        load({f"{variable}_FILE": str(path), **environ})
    text = str(caught.value)
    assert f"{variable}_FILE" in text
    assert "\n" not in text
    assert "hunter2" not in text
    return text


@pytest.mark.parametrize("variable", secret_names())
def test_a_secret_and_its_file_are_refused_together(tmp_path, variable):
    (tmp_path / "secret").write_text("hunter2")
    text = refused_file(variable, tmp_path / "secret", **{variable: "hunter2"})
    assert text == f"{variable} and {variable}_FILE are both set; unset one of them"


def test_a_secrets_file_that_is_missing_is_named(tmp_path):
    assert str(tmp_path / "missing") in refused_file("DATABASE_URL", tmp_path / "missing")


def test_a_secrets_file_that_is_a_folder_is_refused(tmp_path):
    refused_file("DATABASE_URL", tmp_path)


def test_a_secrets_file_that_is_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused_file("ROUTERDASH_ADMIN_PASSWORD", tmp_path / "pipe")


def test_a_secrets_file_that_is_unreadable_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    path.write_text("hunter2")

    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)  # root may read any file
    assert "cannot be read: Permission denied" in refused_file("ROUTERDASH_ADMIN_PASSWORD", path)


@pytest.mark.parametrize(("content", "word"), [(b"", "empty"), (b" \n", "empty"), (b"hunter2\xff\xfe", "text")])
def test_an_empty_secrets_file_is_refused(tmp_path, content, word):
    (tmp_path / "secret").write_bytes(content)
    assert word in refused_file("ROUTERDASH_ADMIN_PASSWORD", tmp_path / "secret")


def test_a_secrets_file_of_an_unknown_user_is_refused():
    refused_file("ROUTERDASH_ADMIN_PASSWORD", "~no-such-user/secret")


def test_a_bad_secret_in_a_file_is_not_shown(tmp_path):
    (tmp_path / "secret").write_text("sk_hunter2")
    with pytest.raises(ConfigError, match=r"^ROUTERDASH_BOOTSTRAP_API_KEY must be .*, not the given value$"):
        load({"ROUTERDASH_BOOTSTRAP_API_KEY_FILE": str(tmp_path / "secret")})


def test_a_child_process_gets_only_the_secrets_that_it_needs(tmp_path):
    environ = {name: raw for name, raw, *_ in SECRETS if name != "DATABASE_URL"}
    (tmp_path / "url").write_text("postgres://me:hunter2@db/main")
    environ |= {"DATABASE_URL_FILE": str(tmp_path / "url"), "PATH": "/bin"}
    config = load(environ)
    gateway = for_a_child(environ, config, ["ROUTERDASH_ENCRYPTION_KEYS"])
    assert {name for name in gateway if name.removesuffix("_FILE") in secret_names()} == {"ROUTERDASH_ENCRYPTION_KEYS"}
    assert gateway["PATH"] == "/bin"
    control = for_a_child(environ, config, ["DATABASE_URL"])
    assert {name for name in control if name.removesuffix("_FILE") in secret_names()} == {"DATABASE_URL_FILE"}


def test_a_child_process_finds_relative_files_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("url", "certificate"):
        (tmp_path / name).write_text("postgres://me@db/main")
    environ = {"DATABASE_URL_FILE": "url", "ROUTERDASH_TLS_CERTIFICATE": "certificate", "ROUTERDASH_DATA_DIR": "here"}
    given = for_a_child(environ, load(environ), ["DATABASE_URL"])
    assert given["DATABASE_URL_FILE"] == str(tmp_path / "url")
    assert given["ROUTERDASH_TLS_CERTIFICATE"] == str(tmp_path / "certificate")
    assert given["ROUTERDASH_DATA_DIR"] == str(tmp_path / "here")


# The default data directory


def test_the_data_directory_of_a_checkout_is_in_the_checkout():
    assert default_data_dir({"XDG_DATA_HOME": "/srv/xdg"}, installed=False) == Path.cwd() / "data"


@pytest.mark.parametrize(
    ("xdg", "directory"),
    [
        ("/srv/xdg", Path("/srv/xdg/routerdash")),
        ("", Path.home() / ".local/share/routerdash"),
        ("relative", Path.home() / ".local/share/routerdash"),  # the specification requires absolute paths
    ],
)
def test_the_data_directory_of_an_installation_follows_xdg(xdg, directory):
    assert default_data_dir({"XDG_DATA_HOME": xdg}, installed=True) == directory

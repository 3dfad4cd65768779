"""Settings of Django. Only gateway.base.config reads the environment, by its table of settings."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dj_database_url
import django_stubs_ext
from django.utils.translation import gettext_lazy as _

from gateway.base import config, setting_parsers
from routerdash import __version__, secret_key
from routerdash.processes.schedules import CLUSTER
from routerdash.slices import CORE_SLICES, SLICES

django_stubs_ext.monkeypatch()  # permits subscripts on Django's classes, for the type checker

BASE_DIR = Path(__file__).resolve().parent.parent  # parent directory of the packages
ASSETS_DIR = setting_parsers.ASSETS if setting_parsers.INSTALLED else BASE_DIR

ROUTERDASH = config.load(os.environ)
# The supervisor sets the role of the process: only `control` seeds the trackers.
ROUTERDASH_ROLE = os.environ.get("ROUTERDASH_ROLE", "")

DEBUG = False
ROOT_URLCONF = "routerdash.web.urls"
ASGI_APPLICATION = "routerdash.web.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "endpoints",
    "metrics",
    "access",
    "routerdash",
    "routerdash.apps.AdminConfig",
    "rest_framework",
    "drf_spectacular",
    "django_q",
    *CORE_SLICES,
    *SLICES,
]

# Static files do not pass these (routerdash.web.asgi).
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "routerdash.web.middleware.ContentSecurityPolicy",
    "access.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "routerdash.web.middleware.ViewersZone",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "access.middleware.PasswordChangeRequired",
    "routerdash.web.errors.DatabaseUnavailable",
    "django.contrib.messages.middleware.MessageMiddleware",
    "routerdash.web.acknowledgement.WaitForGateways",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "routerdash.web.templates.Templates",
        "DIRS": [ASSETS_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "routerdash.web.context.site",
            ],
        },
    }
]


POSTGRESQL = "routerdash.postgresql"


def database(settings: config.Config) -> dict[str, Any]:
    """Return Django's connection settings.

    SQLite is opened read-write but never created: only `serve` creates a database.
    """
    path = settings.database_path
    if path is None:
        parsed: dict[str, Any] = {**dj_database_url.parse(settings.database_url, engine=POSTGRESQL)}
        # An unreachable server is an error after seconds, not after a quarter of an hour.
        limits = {"connect_timeout": 5, "tcp_user_timeout": 10_000}
        parsed["OPTIONS"] = {**limits, **parsed.get("OPTIONS", {})}
        return parsed
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"file:{quote(str(path))}?mode=rw",
        "OPTIONS": {
            # Otherwise two writers that both begin with a read fail with "database is locked".
            "transaction_mode": "IMMEDIATE",
            "timeout": 5,
            # A checkpoint every 4000 pages instead of 1000: under load the same pages are written repeatedly.
            # Each thread has a connection with a cache. The limit is that of all caches of a process together: they
            # would have grown to 180 MB in control, once its pages had counted a million rows. The database writer
            # enlarges its own cache (metrics.storage.database).
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-6000; "
            "PRAGMA soft_heap_limit=64000000; PRAGMA wal_autocheckpoint=4000;",
        },
    }


DATABASES = {"default": database(ROUTERDASH)}
if ROUTERDASH_ROLE == "background":
    # By default, django-q2 opens connections several times for each job, which took half of the CPU time of syncs. It
    # closes older ones meanwhile, so that a database file that was moved away is not used for long.
    DATABASES["default"] |= {"CONN_MAX_AGE": 5, "CONN_HEALTH_CHECKS": True}

# Access
AUTH_USER_MODEL = "access.User"
AUTHENTICATION_BACKENDS = ["access.backends.Backend"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.BCryptPasswordHasher"]  # cost 12, as the existing rows
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "access.backends.AdministratorLengthValidator"},
    {"NAME": "access.backends.BcryptLengthValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "overview"
LOGOUT_REDIRECT_URL = "login"

# Sessions are in control's memory and in a separate file: an unavailable database must not end sessions.
SESSION_ENGINE = "access.sessions.engine"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = ROUTERDASH.session_max_days * 86400
CSRF_FAILURE_VIEW = "routerdash.web.errors.csrf_failure"
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = ROUTERDASH.https
# Browsers accept a cookie with this prefix only by HTTPS, and from no other host of the domain.
_prefix = "__Host-" if ROUTERDASH.https else ""
SESSION_COOKIE_NAME = f"{_prefix}routerdash_session"
CSRF_COOKIE_NAME = f"{_prefix}routerdash_csrf"  # static/js/dom.js contains both names
SECURE_HSTS_SECONDS = ROUTERDASH.hsts_seconds  # for requests that came by HTTPS; see also routerdash.web.middleware
CSRF_TRUSTED_ORIGINS = [ROUTERDASH.public_url] if ROUTERDASH.public_url else []
SECRET_KEY = secret_key.read(ROUTERDASH.data_dir / "secret-key")

# The gateway checks Host by ROUTERDASH_ALLOWED_HOSTS before anything reaches Django over its private socket.
ALLOWED_HOSTS = ["*"]
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
APPEND_SLASH = False

# Language and time
USE_I18N = True
USE_TZ = True
TIME_ZONE = ROUTERDASH.time_zone
LANGUAGE_CODE = ROUTERDASH.language
LANGUAGES = [("en", _("English")), ("ja", _("Japanese"))]
LANGUAGE_COOKIE_NAME = "routerdash_language"
LOCALE_PATHS = [ASSETS_DIR / "locale"]

# Static files are served from their source folder, without collectstatic or a build.
STATIC_URL = "/static/"
STATICFILES_DIRS = [ASSETS_DIR / "static"]
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_AUTOREFRESH = False
SERVESTATIC_MAX_AGE = 3600

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "access.authentication.ApiKeyAuthentication",
        "access.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["access.permissions.HasPermission"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["routerdash.web.parsers.BoundedJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "routerdash.web.errors.api_error",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "RouterDash",
    "DESCRIPTION": "Dashboard figures, endpoints and API keys. Clients' own requests go to /v1.",
    "VERSION": __version__,
    "SERVE_PERMISSIONS": ["access.permissions.HasPermission"],
    "SERVE_INCLUDE_SCHEMA": False,
    "PREPROCESSING_HOOKS": ["routerdash.web.schema.describe"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "routerdash.web.schema.add_responses",
        "routerdash.web.schema.add_tags",
    ],
    "ENUM_NAME_OVERRIDES": {
        "StatusEnum": "endpoints.models.Status.choices",
        "OperatorStateEnum": "endpoints.models.OperatorState.choices",
        "EndpointTypeEnum": "endpoints.clouds.kinds.KIND_CHOICES",
        "HealthStateEnum": "metrics.queries.uptime.KNOWN_STATES",
        "LimitEnum": "gateway.registry.limits.LIMITS_OF_A_SUBJECT",
        "ExceededLimitEnum": "metrics.spending.admission.EXCEEDED",
        "StepReasonEnum": "gateway.model_names.step_reasons.SKIPPED",
    },
}

# django-q2: its shutdown traps are in routerdash/processes/background.py.
Q_CLUSTER = {
    "name": CLUSTER,
    "orm": "default",
    "label": "Background jobs",
    "workers": 1,
    "timeout": 120,
    "retry": 300,
    "max_attempts": 1,
    "poll": 1,
    "guard_cycle": 1,
    "catch_up": False,
    "save_limit": 100,
    "recycle": 500,
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

LOGGING_CONFIG = None  # gateway.base.logs configures every process

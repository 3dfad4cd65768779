"""Variables of llmlb that have no effect here, and the settings that have. `serve` names those that are set."""

import logging
from collections.abc import Mapping

log = logging.getLogger(__name__)

PREFIX = "LLMLB_"
COUNTERPARTS: Mapping[str, str] = {
    "LLMLB_HOST": "ROUTERDASH_HOST",
    "LLMLB_PORT": "ROUTERDASH_PORT",
    "LLMLB_DATABASE_URL": "DATABASE_URL",
    "LLMLB_DB_PATH": "DATABASE_URL",
    "LLMLB_DATA_DIR": "ROUTERDASH_DATA_DIR",
    "LLMLB_ADMIN_USERNAME": "ROUTERDASH_ADMIN_USERNAME",
    "LLMLB_ADMIN_PASSWORD": "ROUTERDASH_ADMIN_PASSWORD",
    "LLMLB_LOG_LEVEL": "ROUTERDASH_LOG_LEVEL",
    "LLMLB_HEALTH_CHECK_INTERVAL": "ROUTERDASH_HEALTH_CHECK_INTERVAL",
    "LLMLB_LOAD_BALANCER_MODE": "ROUTERDASH_BALANCER",
    "LLMLB_QUEUE_MAX": "ROUTERDASH_QUEUE_MAX",
    "LLMLB_QUEUE_TIMEOUT_SECS": "ROUTERDASH_QUEUE_TIMEOUT_SECS",
    "LLMLB_REQUEST_HISTORY_RETENTION_DAYS": "ROUTERDASH_HISTORY_RETENTION_DAYS",
    "GOOGLE_API_BASE_URL": "GOOGLE_BASE_URL",
    "ANTHROPIC_API_BASE_URL": "ANTHROPIC_BASE_URL",
}
# Those that need no counterpart, and why.
REASONS: Mapping[str, str] = {
    "LLMLB_JWT_SECRET": "sessions need no secret of yours",
    "LLMLB_LOG_DIR": "logs go to standard error",
    "LLMLB_LOG_RETENTION_DAYS": "logs go to standard error",
    "LLMLB_DEFAULT_EMBEDDING_MODEL": "requests to /v1/embeddings must name a model",
    "LLMLB_AUTO_SYNC_MODELS_INTERVAL_SECS": "model lists are read every 15 minutes",
    "LLMLB_REQUEST_HISTORY_CLEANUP_INTERVAL_SECS": "the interval is fixed",
}


def warn(environ: Mapping[str, str]) -> None:
    """Log the variables of llmlb that are set, and their counterparts. Values are not logged."""
    for name in sorted(environ):
        if name in COUNTERPARTS:
            log.warning("%s has no effect; use %s", name, COUNTERPARTS[name])
        elif name.startswith(PREFIX):
            log.warning("%s has no effect: %s", name, REASONS.get(name, "there is no such setting"))

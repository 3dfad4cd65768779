"""Settings of retention: after how many days rows, bodies and addresses are deleted."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from gateway.base import setting_parsers as parsers
from gateway.base.ollama_settings import OllamaSettings
from gateway.base.setting_parsers import setting

HISTORY_DAYS = "ROUTERDASH_HISTORY_RETENTION_DAYS"
BODY_DAYS = 7  # for which bodies are kept unless a setting says otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings(OllamaSettings):
    """Part of gateway.base.config.Config."""

    history_retention_days: int = setting(
        HISTORY_DAYS,
        "30",
        parsers.WholeNumber(1, 3650),
        "Days after which history rows are deleted; figures stay.",
    )
    body_retention_days: int = setting(
        "ROUTERDASH_BODY_RETENTION_DAYS",
        "0",
        parsers.WholeNumber(0, 3650),
        "Whole days (UTC) after which stored bodies are deleted from history rows, at the latest with the row; 0: as "
        f"many days as `{HISTORY_DAYS}` if that is set, else {BODY_DAYS}.",
    )
    client_retention_days: int = setting(
        "ROUTERDASH_CLIENT_RETENTION_DAYS",
        "0",
        parsers.WholeNumber(0, 3650),
        "Whole days (UTC) after which client addresses are deleted, in the history and in the figures of "
        "clients; 0: in the history together with its rows, else never.",
    )

    @property
    def body_days(self) -> int:
        """Days for which stored bodies are kept."""
        return min(self.body_retention_days, self.history_retention_days)


Settings = TypeVar("Settings", bound=RetentionSettings)


def with_body_days(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Return the settings with the days of bodies. Before these had a setting, that of the history decided."""
    if settings.body_retention_days:
        return settings
    is_set = environ.get(HISTORY_DAYS, "").strip()
    return replace(settings, body_retention_days=settings.history_retention_days if is_set else BODY_DAYS)

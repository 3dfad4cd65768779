from django.apps import AppConfig


class CostsConfig(AppConfig):
    """Template tags, commands and admin of costs. The tables belong to the app of metrics."""

    name = "metrics.costs"

    def ready(self) -> None:
        from metrics.costs import price_cache  # noqa: F401  # connects the signals

from django.apps import AppConfig
from django.conf import settings
from django.utils.translation import gettext_lazy as _


class MetricsConfig(AppConfig):
    name = "metrics"
    verbose_name = _("Figures")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Seed the trackers, in the control process alone: every other one would only hold a copy that goes stale."""
        if settings.ROUTERDASH_ROLE == "control":
            from metrics import seeding

            seeding.seed_at_start()

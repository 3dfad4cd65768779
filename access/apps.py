from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class AccessConfig(AppConfig):
    name = "access"
    verbose_name = _("Access")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # These imports connect the signal handlers.
        from access import signals  # noqa: F401
        from access.limits import reading  # noqa: F401

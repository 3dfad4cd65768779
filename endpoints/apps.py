from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class EndpointsConfig(AppConfig):
    name = "endpoints"
    verbose_name = _("Endpoints")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from endpoints import signals  # noqa: F401  # connects the handlers

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class RouterDashConfig(AppConfig):
    name = "routerdash"
    default = True

    def ready(self) -> None:
        from routerdash import checks  # noqa: F401  # registers the checks


class AdminConfig(admin_apps.AdminConfig):
    default = False
    default_site = "routerdash.admin_site.AdminSite"

import logging

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class RouterDashConfig(AppConfig):
    name = "routerdash"
    default = True

    def ready(self) -> None:
        from routerdash import checks  # noqa: F401  # registers the checks

        # django-q2 gives its logger a handler and a level of its own; Django warns of every 404.
        jobs = logging.getLogger("django-q")
        jobs.handlers.clear()
        jobs.propagate = True
        jobs.setLevel(logging.WARNING)
        logging.getLogger("django.request").setLevel(logging.ERROR)


class AdminConfig(admin_apps.AdminConfig):
    default = False
    default_site = "routerdash.admin_site.AdminSite"

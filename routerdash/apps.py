import logging
import os
import warnings
from functools import partial

from django.apps import AppConfig
from django.conf import settings
from django.contrib.admin import apps as admin_apps

from routerdash.optional_packages import import_without

import_without("django_q.conf", "prometheus_client")  # Django loads this module before django-q2


class RouterDashConfig(AppConfig):
    name = "routerdash"
    default = True

    def ready(self) -> None:
        from routerdash import checks  # noqa: F401  # registers the checks

        # Fields of PostgreSQL would load psycopg on SQLite too; pygments colours pages that nobody can open here; the
        # next two are for schemas of this library itself.
        import_without("rest_framework.compat", "django.contrib.postgres", "pygments", "yaml", "uritemplate")
        # django-q2 adds its own handler and level to its logger; Django logs a warning for every 404.
        jobs = logging.getLogger("django-q")
        jobs.handlers.clear()
        jobs.propagate = True
        jobs.setLevel(logging.WARNING)
        logging.getLogger("django.request").setLevel(logging.ERROR)
        if settings.ROUTERDASH_ROLE == "control":
            _seed_trackers()


def _seed_trackers() -> None:
    """Fill the trackers of the control process from the database.

    A database that is still to be created or migrated is read once that is done (the command `control`).
    """
    from gateway.base import logs
    from metrics.storage import seeding
    from routerdash.processes import prepare

    os.environ.pop("ROUTERDASH_ROLE", None)  # processes that control starts have another role
    logs.configure(settings.ROUTERDASH, "control")
    with warnings.catch_warnings():
        # Django discourages it because every command would do it, and tests, with the real database: these do not.
        warnings.filterwarnings("ignore", "Accessing the database during app initialization")
        seeding.seed_at_start(partial(prepare.is_prepared, settings.ROUTERDASH))


class AdminConfig(admin_apps.AdminConfig):
    default = False
    default_site = "routerdash.web.admin_site.AdminSite"

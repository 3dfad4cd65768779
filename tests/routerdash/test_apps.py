"""Changes of the project to the libraries that it uses."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib import admin

from routerdash.web.admin_site import AdminSite
from tests.router import clean_environment
from tests.routerdash.commands import python


def test_libraries_log_less() -> None:
    assert logging.getLogger("django-q").level == logging.WARNING
    assert logging.getLogger("django.request").level == logging.ERROR


def test_django_q_has_no_handler_of_its_own(tmp_path: Path) -> None:
    code = "import logging, django_q.tasks; print(logging.getLogger('django-q').handlers)"
    assert python(code, ROUTERDASH_DATA_DIR=str(tmp_path)).out == "[]\n"


def test_the_admin_is_ours() -> None:
    assert isinstance(admin.site, AdminSite)


# What takes memory and is needed rarely, by the parts of RouterDash that load it then.
RARELY_NEEDED = {
    "psycopg": "PostgreSQL",
    "psycopg_binary": "PostgreSQL",
    "pygments": "no part",
    "cryptography": "API keys of endpoints, and users whose password has changed",
    "prometheus_client": "/metrics",
    "drf_spectacular.openapi": "/api/schema",
    "drf_spectacular.generators": "/api/schema",
    "rest_framework.test": "/api/schema",
    "yaml": "/api/schema",
    "uritemplate": "/api/schema",
    "django.test": "no part",
    "unittest": "no part",
    "click": "no part",
}


@pytest.mark.unmeasured
def test_control_loads_no_package_that_it_does_not_need(tmp_path: Path) -> None:
    code = (
        "import sys; from django.urls import get_resolver; get_resolver().url_patterns; "
        "import routerdash.processes.control, routerdash.web.asgi; print(*sys.modules)"
    )
    done = python(code, ROUTERDASH_DATA_DIR=str(tmp_path))
    assert {"rest_framework", "uvicorn", "drf_spectacular.utils"} <= set(done.out.split()), done.err
    assert not set(done.out.split()) & set(RARELY_NEEDED)


@pytest.mark.unmeasured
def test_the_packages_of_rarely_needed_parts_can_be_loaded_after_the_start(tmp_path: Path) -> None:
    code = (
        "from django.urls import get_resolver; get_resolver().url_patterns; "
        f"import importlib; [importlib.import_module(name) for name in {sorted(set(RARELY_NEEDED))}]; print('loaded')"
    )
    done = python(code, ROUTERDASH_DATA_DIR=str(tmp_path))
    assert done.out == "loaded\n", done.err


def test_a_hidden_package_can_be_imported_later(tmp_path: Path) -> None:
    code = (
        "import sys; from routerdash.optional_packages import import_without; "
        "sys.path.insert(0, '.'); import_without('uses', 'colorsys'); import uses, colorsys; "
        "print(uses.found, colorsys.__name__)"
    )
    (tmp_path / "uses.py").write_text("try:\n    import colorsys as found\nexcept ImportError:\n    found = None\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=clean_environment({}), capture_output=True)
    assert done.stdout.split() == [b"None", b"colorsys"], done.stderr

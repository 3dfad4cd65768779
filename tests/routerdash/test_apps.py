"""What the project changes of the libraries it uses."""

import logging
from pathlib import Path

from django.contrib import admin

from routerdash.admin_site import AdminSite
from tests.routerdash.processes import python


def test_libraries_log_less() -> None:
    assert logging.getLogger("django-q").level == logging.WARNING
    assert logging.getLogger("django.request").level == logging.ERROR


def test_django_q_has_no_handler_of_its_own(tmp_path: Path) -> None:
    code = "import logging, django_q.tasks; print(logging.getLogger('django-q').handlers)"
    assert python(code, ROUTERDASH_DATA_DIR=str(tmp_path)).out == "[]\n"


def test_the_admin_is_ours() -> None:
    assert isinstance(admin.site, AdminSite)

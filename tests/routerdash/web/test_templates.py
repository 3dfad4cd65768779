"""The data of a page is freed without the garbage collector."""

import gc
import weakref

import pytest
from django.template import TemplateDoesNotExist, engines
from django.test import RequestFactory


class Data:
    name = "a & b"


@pytest.fixture(autouse=True)
def _no_collector() -> object:
    gc.disable()
    yield
    gc.enable()


def test_the_data_of_a_page_is_freed_after_rendering() -> None:
    data, template = Data(), engines["templates"].from_string("{% for it in all %}{{ it.name }}{% endfor %}")
    kept = weakref.ref(data)
    assert template.render({"all": [data]}, RequestFactory().get("/")) == "a &amp; b"
    del data
    assert kept() is None


def test_a_missing_template_is_reported() -> None:
    with pytest.raises(TemplateDoesNotExist, match=r"no\.html"):
        engines["templates"].get_template("no.html")
    with pytest.raises(TemplateDoesNotExist, match=r"no\.html"):
        engines["templates"].from_string('{% include "no.html" %}').render({}, RequestFactory().get("/"))

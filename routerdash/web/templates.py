"""Django's template backend, which additionally releases the data of a page as soon as it is rendered.

A RequestContext refers to itself through the ContextDict that holds the data of the page. A page of hundreds of models
left thousands of objects that only the garbage collector could free, which took 17 ms every few pages.
"""

from typing import Any

from django.http import HttpRequest
from django.template import TemplateDoesNotExist
from django.template.backends import django as backend
from django.template.context import make_context
from django.utils.safestring import SafeString


class Template(backend.Template):
    def render(self, context: dict[str, Any] | None = None, request: HttpRequest | None = None) -> SafeString:
        bound = make_context(context, request, autoescape=self.backend.engine.autoescape)
        try:
            return self.template.render(bound)
        except TemplateDoesNotExist as error:
            backend.reraise(error, self.backend)
        finally:
            bound.dicts = []


class Templates(backend.DjangoTemplates):
    def from_string(self, template_code: str) -> Template:
        return Template(self.engine.from_string(template_code), self)

    def get_template(self, template_name: str) -> Template:
        return Template(super().get_template(template_name).template, self)

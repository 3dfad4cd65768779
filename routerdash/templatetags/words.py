"""Template filter for the texts of the API documentation page."""

import re

from django import template
from django.utils.html import escape
from django.utils.safestring import SafeString

register = template.Library()

_CODE = re.compile("`([^`]+)`")


@register.filter
def code(text: str) -> SafeString:
    """Return the text as HTML, with `<code>` elements for the parts between backticks."""
    return SafeString(_CODE.sub(r"<code>\1</code>", escape(text)))

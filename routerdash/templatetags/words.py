"""How sentences of the API's description are written on its page."""

import re

from django import template
from django.utils.html import escape
from django.utils.safestring import SafeString

register = template.Library()

_CODE = re.compile("`([^`]+)`")


@register.filter
def code(text: str) -> SafeString:
    """What stands between backticks, as code."""
    return SafeString(_CODE.sub(r"<code>\1</code>", escape(text)))

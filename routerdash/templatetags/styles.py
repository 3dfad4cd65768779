"""Template tag for the address of a style sheet."""

from django import template

from routerdash.web.styles import address

register = template.Library()


@register.simple_tag
def style_sheet(name: str) -> str:
    """Return the URL of a style sheet of `routerdash.web.styles`, such as `routerdash` or `admin`."""
    return address(name)

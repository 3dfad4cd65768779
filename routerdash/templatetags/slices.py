"""Template tag for what slices show on pages of the core."""

from django import template
from django.template.context import Context
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from endpoints.slices import slices

register = template.Library()


@register.simple_tag(takes_context=True)
def sections(context: Context, place: str) -> SafeString:
    """Return the sections of all slices for a place, in the order of the list."""
    engine = context.template.engine  # type: ignore[union-attr]  # it renders a template now
    names = [name for one in slices() if (name := one.sections.get(place))]
    return format_html_join("", "{}", ((engine.get_template(name).render(context),) for name in names))

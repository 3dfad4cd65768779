"""Texts of endpoint events on the overview."""

from collections.abc import Mapping
from typing import Any

from django import template
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from endpoints import causes
from endpoints.models import Status

register = template.Library()

STATUSES = {
    Status.ONLINE: gettext_noop("Online"),
    Status.ERROR: gettext_noop("Error"),
    Status.OFFLINE: gettext_noop("Offline"),
}


@register.filter
def event_text(event: Mapping[str, Any]) -> str:
    """Return the change of an endpoint in words; `event` is one of the overview's `marks`."""
    names = {"name": event["endpoint_name"], "by": event["by"]}
    if event["what"] == "status":
        text = f"{names['name']}: {_(STATUSES.get(event['status_after'], gettext_noop('Pending')))}"
    elif event["what"] == "added":
        text = _("%(name)s added by %(by)s") % names
    elif event["what"] == "deleted":
        text = _("%(name)s deleted by %(by)s") % names
    else:
        text = _("%(name)s changed by %(by)s") % names
    return f"{text} ({causes.shown(event['detail'])})" if event["detail"] else text

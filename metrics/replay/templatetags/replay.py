"""Template filters of replays: their results in a sentence each, in the language of the page."""

from django import template
from django.utils.translation import gettext as _

from metrics.replay import sentences
from metrics.replay.jobs import Replay
from metrics.replay.payload import GainPayload, HeadroomPayload, ReplayRefusalPayload

register = template.Library()


@register.filter
def refusal_text(refusal: ReplayRefusalPayload) -> str:
    return sentences.refusal_text(refusal["code"], refusal["values"], _)


@register.filter
def gain_text(gain: GainPayload) -> str:
    """Return what a gain means."""
    return sentences.gain_text(gain["low"], gain["high"], _)


@register.filter
def gain_class(gain: GainPayload) -> str:
    """Return the CSS class of a gain."""
    return "better" if gain["low"] > 1.0 else "worse" if gain["high"] < 1.0 else "unclear"


@register.filter
def users_text(headroom: HeadroomPayload) -> str:
    """Return how many users fit."""
    return sentences.users_text(headroom["low"], headroom["high"], headroom["limit"], _)


@register.filter
def limit_text(headroom: HeadroomPayload) -> str:
    """Return what fails first; empty if nothing did."""
    return sentences.limit_text(headroom["limit"], headroom["endpoint_name"] or "", _)


@register.filter
def question_text(one: Replay) -> str:
    """Return the question of a replay."""
    change = one.question.change
    parts = [change.policy]
    parts += [_("without %(name)s") % {"name": name} for name in change.removed]
    parts += [_("one more like %(name)s") % {"name": name} for name in change.added]
    parts += [
        _("%(name)s takes %(factor)s times as long") % {"name": name, "factor": f"{x:g}"} for name, x in change.slower
    ]
    return ", ".join(parts)

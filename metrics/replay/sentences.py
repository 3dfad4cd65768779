"""Sentences of an answer, for the command line, the JSON API and the page. Imports nothing of Django.

Texts are English. A page gives a function that translates them.
"""

from collections.abc import Callable, Mapping

from metrics.replay import backtest
from metrics.replay import headroom as limits
from metrics.replay.ask import Answer
from metrics.replay.headroom import MOST_USERS
from metrics.replay.prediction import Gain

Translate = Callable[[str], str]


def _(text: str) -> str:
    """Mark a text for translation."""
    return text


REFUSALS = {
    backtest.FEW: _(
        "Cannot tell: there are %(requests)s requests with output tokens, and at least %(needed)s are needed. Choose a "
        "longer time."
    ),
    backtest.COARSE: _(
        "Cannot tell: the history has failed requests only. Set ROUTERDASH_HISTORY=all and wait for some traffic."
    ),
    backtest.SWITCHED: _(
        "Cannot tell: another balancer decided %(requests)s of the requests. Choose a time with one alone."
    ),
    backtest.COLD: _("Cannot tell: models were loaded for %(requests)s of the requests, and loading is not replayed."),
    backtest.SATURATED: _("Cannot tell: the recorded traffic was past saturation, where waits grow without end."),
    backtest.OFF: _("Cannot tell: the replay of what happened is off by %(percent)s %%."),
    backtest.UNKNOWN_SPEED: _("Cannot tell: the speed of endpoints with next to no requests is not known: %(names)s."),
    backtest.NO_ENDPOINT: _("Cannot tell: no endpoint would be left for some of the requests."),
}
LIMITS = {
    limits.QUEUE_FULL: _("What fails first: the queue is full."),
    limits.SLOTS: _("What fails first: requests wait for a slot, most of them at %(endpoint)s."),
    limits.PREFILL: _("What fails first: prompts wait to be read, most of them at %(endpoint)s."),
    limits.DECODE: _("What fails first: writing is too slow, most of all at %(endpoint)s."),
}
PER_TOKEN, FIRST_TOKEN = "p95 of the time per output token", "p95 of the time to first token"
SHORTER, LONGER = _("%(low)s to %(high)s times shorter"), _("%(low)s to %(high)s times longer")
UNCLEAR = _("no clear change: from %(longer)s times longer to %(shorter)s times shorter")
USERS = _("%(low)s to %(high)s times today's users")
ALL_USERS = _("more than %(low)s times today's users; nothing failed up to %(most)s times")


def refusal_text(code: str, values: Mapping[str, str | int], translate: Translate = _) -> str:
    return translate(REFUSALS[code]) % dict(values)


def gain_text(low: float, high: float, translate: Translate = _) -> str:
    """Return what an interval of gains means."""
    if low > 1.0:
        return translate(SHORTER) % {"low": times(low), "high": times(high)}
    if high < 1.0:
        return translate(LONGER) % {"low": times(1 / high), "high": times(1 / low)}
    return translate(UNCLEAR) % {"longer": times(1 / low), "shorter": times(high)}


def users_text(low: float, high: float, limit: str | None, translate: Translate = _) -> str:
    """Return how many users fit. Without a `limit`, nothing failed."""
    if not limit:
        return translate(ALL_USERS) % {"low": times(low), "most": f"{MOST_USERS:g}"}
    return translate(USERS) % {"low": times(low), "high": times(high)}


def limit_text(limit: str | None, endpoint: str, translate: Translate = _) -> str:
    """Return what fails first; empty if nothing does."""
    return translate(LIMITS[limit]) % {"endpoint": endpoint} if limit else ""


def sentences(answer: Answer) -> list[str]:
    """Return one sentence for each thing that is predicted, or one that says why nothing is."""
    if answer.refusal is not None:
        return [refusal_text(answer.refusal.code, answer.refusal.values)]
    shown = []
    if answer.prediction is not None:
        for name, gain in ((PER_TOKEN, answer.prediction.gain), (FIRST_TOKEN, answer.prediction.first_gain)):
            if gain is not None:
                shown.append(_gain_sentence(name, gain))
    if answer.headroom is not None:
        carried = answer.headroom
        users = users_text(carried.low, carried.high, carried.limit)
        shown.append(f"Carried with a {FIRST_TOKEN} of at most {carried.seconds:g} s: {users}.")
        if carried.limit:
            shown.append(limit_text(carried.limit, answer.names.get(carried.endpoint, "")))
    return shown


def _gain_sentence(name: str, gain: Gain) -> str:
    return f"{name}: {gain_text(gain.low, gain.high)}."


def times(value: float) -> str:
    """Return a factor with two digits."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"

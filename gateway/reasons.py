"""Which texts on errors in records are RouterDash's own, and may be shown to everybody.

Releases before this one recorded what endpoints said of their errors, and so did the reference system. Such rows, and
records in journals, are shown by their status alone. What is not in this list is taken for an endpoint's words.
"""

import re
from functools import lru_cache

from gateway import record

UNTOLD = "an error in the endpoint's own words"
# Outcomes whose texts have always been RouterDash's own.
_OWN = frozenset((record.OK, record.CANCELLED, record.NO_ENDPOINT, record.QUEUE, record.TRUNCATED))

_WORDS = r"(?: \([A-Za-z0-9_.\[\]-]{1,64}(?:, [A-Za-z0-9_.\[\]-]{1,64})?\))?"
_ATTEMPT = "|".join(
    (
        rf"HTTP [1-9]\d\d{_WORDS}",
        rf"an error in its answer{_WORDS}",
        r"no connection(?: within [0-9.e+]{1,12} s)?",
        r"connection refused",
        r"TLS failed: [A-Za-z0-9_ ]{1,64}",
        r"its address is link-local; see ROUTERDASH_ALLOW_LINK_LOCAL",
        r"timed out",
        r"the connection broke off",
        r"not a proper HTTP answer: [A-Za-z0-9 /'`:,.()_-]{1,200}",
        r"a head or trailer without end",
        r"the answer has more than \d+ MiB",
        r"an event is too long",
        r"the stream ended before its (?:answer did|first event)",
        r"an empty answer",
        r"a web page instead of an answer",
        r"it tells no tokens",
        r"the endpoint's answer is no chat completion: it has no message",
        r"the endpoint's answer is no chat completion: [A-Z][A-Za-z0-9 `'$.,:()|\[\]-]{1,200}",
        r"the endpoint was drained",
        r"it refuses the key that RouterDash has for it",
        r"RouterDash failed; its log says why",
    )
)
_OURS = re.compile(rf"(?:{_ATTEMPT})|The endpoint failed: (?:{_ATTEMPT})\.|The endpoint did not answer in time\.")


@lru_cache(maxsize=4096)
def is_ours(text: str) -> bool:
    """May everybody read this text of a request, or an attempt, that an endpoint failed or refused?"""
    return _OURS.fullmatch(text) is not None


def shown(outcome: str | None, text: str | None, status: int | None) -> str | None:
    """The text for everybody. `outcome` is None of a request that the reference system recorded; `status` is None or 0
    where no HTTP status is known.
    """
    if text is None or outcome in _OWN or is_ours(text):
        return text
    return f"HTTP {status}" if status else UNTOLD

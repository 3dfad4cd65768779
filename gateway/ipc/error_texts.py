"""Error texts in records that RouterDash itself wrote, and that everyone may see.

The patterns also match the wording of earlier releases, which stored rows have.

Earlier releases recorded the error messages of endpoints, and so did llmlb. Of such rows, and of such records in
journals, only the status is shown. A text that is not in this list is treated as an endpoint's.
"""

import re
from functools import lru_cache

from gateway.base.destinations import LINK_LOCAL, OUTSIDE
from gateway.ipc import record

HIDDEN_ERROR = "an error message of the endpoint"
# Outcomes whose texts RouterDash itself has always written.
_OWN = frozenset((record.OK, record.CANCELLED, record.NO_ENDPOINT, record.QUEUE, record.TRUNCATED))

_WORDS = r"(?: \([A-Za-z0-9_.\[\]-]{1,64}(?:, [A-Za-z0-9_.\[\]-]{1,64})?\))?"
_ATTEMPT = "|".join(
    (
        rf"HTTP [1-9]\d\d{_WORDS}",
        rf"an error in its (?:answer|response){_WORDS}",
        r"no connection(?: within [0-9.e+]{1,12} s)?",
        r"connection refused",
        r"TLS failed: [A-Za-z0-9_ ]{1,64}",
        r"its name leads nowhere",
        re.escape(LINK_LOCAL),
        re.escape(OUTSIDE),
        r"its address is link-local; see ROUTERDASH_ALLOW_LINK_LOCAL",
        r"its host name has no address",
        r"timed out",
        r"the connection broke off",
        r"not a proper HTTP (?:answer|response): [A-Za-z0-9 /'`:,.()_-]{1,200}",
        r"a (?:head|header block) or trailer without end",
        r"its (?:head|header block) has more than \d+ lines",
        r"the (?:answer|response) has more than \d+ MiB",
        r"its (?:answer|response) has more than \d+ MiB to be translated",
        r"an event is too long",
        r"the stream ended before its (?:answer did|response was complete|first event)",
        r"an empty (?:answer|response)",
        r"a web page instead of (?:an answer|a response)",
        r"it (?:tells no tokens|reports no token counts)",
        r"the endpoint's (?:answer is no|response is not a) chat completion: it has no message",
        r"the endpoint's (?:answer|response) has more than [0-9,]{1,12} (?:values|tool calls|blocks)",
        r"the endpoint's response has no embeddings",
        r"the endpoint's response is not a message: it has no content",
        r"the endpoint's response is not a message: [A-Z][A-Za-z0-9 `'$.,:()|\[\]-]{1,200}",
        r"the endpoint's (?:answer is no|response is not a) chat completion: [A-Z][A-Za-z0-9 `'$.,:()|\[\]-]{1,200}",
        r"the endpoint was drained",
        r"it (?:refuses the key that RouterDash has for it|rejects the API key that RouterDash sends)",
        r"its (?:account may not do this|account has no credit left|address has moved \(HTTP 3\d\d\))",
        r"it (?:does not know the model|lacks this kind of request)",
        r"RouterDash failed; its log says why|an internal error of RouterDash; see its log",
    )
)
_OWN_TEXT = re.compile(
    rf"(?:{_ATTEMPT})|The endpoint failed: (?:{_ATTEMPT})\.|The endpoint did not (?:answer|respond) in time\."
    r"|The endpoint did not load the model within [0-9.e+]{1,12} s\."
)


@lru_cache(maxsize=4096)
def is_own_text(text: str) -> bool:
    """Return True if everyone may see this text of a request, or an attempt, that an endpoint failed or refused."""
    return _OWN_TEXT.fullmatch(text) is not None


def shown(outcome: str | None, text: str | None, status: int | None) -> str | None:
    """Return the text that everyone may see.

    `outcome` is None for a request that llmlb recorded; `status` is None or 0 if no HTTP status was recorded.
    """
    if text is None or outcome in _OWN or is_own_text(text):
        return text
    return f"HTTP {status}" if status else HIDDEN_ERROR

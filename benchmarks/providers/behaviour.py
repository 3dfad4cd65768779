"""How a simulated cloud behaves, and the causes of its errors."""

from dataclasses import dataclass

from benchmarks.simulator import Behaviour

# Causes of errors. A dialect may have variants of them, such as `money.spend_limit`.
CAUSES = (
    "key_refused",
    "not_permitted",
    "money",
    "limited",
    "overloaded",
    "too_long",
    "filtered",
    "model_unknown",
    "path_unknown",
    "parameter",
    "server",
)
USAGES = (
    "",  # exact
    "absent",
    "cached_over",  # more cached tokens than input
    "contradictory",  # the total is not the sum of its parts
)
# A model name that begins so chooses a fault or a finish reason for its requests: `sim-429`, `sim-money`,
# `sim-server-after-3` (the first three requests succeed), `sim-finish-content_filter`.
DIRECTIVE = "sim-"


@dataclass
class CloudBehaviour(Behaviour):
    """Behaviour of a simulated cloud. Any field can be changed while it runs.

    `fault` is one of the simulator's faults, a status or a cause of CAUSES, a variant of a cause, or `error_in_200`.
    """

    prompt_tokens: int = 0  # 0: counted from the prompt (benchmarks.providers.tokens)
    api_key: str = ""  # empty: the example key of the dialect
    reasoning: int = 6  # tokens of reasoning, if the request wants it
    calls: int = 2  # tool calls in one response, unless the request forbids parallel ones
    cached_share: float = 0.5  # of the input, where the dialect reports it
    written_share: float = 0.125
    usage: str = ""
    finish: str = ""  # finish reason in the dialect's own words
    requests_limit: int = 0  # in a minute; 0: no limit, and no headers
    tokens_limit: int = 0
    retry_after: float = 2.0  # seconds, in errors that name a time and do not follow from the limits
    echoes_key: bool = True  # repeats the whole key in the text of some errors
    redirect: str = ""  # address to which every path is redirected
    gzip: bool = True  # compresses complete responses for clients that accept it
    page: int = 0  # entries of a page of the model list; 0: the dialect's default

"""Sessions of clients. A client sends its next request some time after the response to the last one (semi-open)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from benchmarks.routing.fleets import Fleet, Mix

CHAT, RAG, AGENTS, SHORT, EMBEDDINGS, BATCH = KINDS = ("chat", "rag", "agents", "short", "embeddings", "batch")
_TURNS = {CHAT: 5, AGENTS: 9}
_DOCUMENTS = 200
_LONGEST_PROMPT, _LONGEST_OUTPUT = 12_000, 2_000
# Of each kind: new tokens and their spread, output tokens and their spread, tokens of the system prompt.
_LENGTHS = {
    CHAT: (70, 1.0, 220, 0.9, 120),
    RAG: (30, 0.0, 140, 0.7, 250),
    AGENTS: (350, 1.0, 90, 0.9, 3000),
    SHORT: (120, 0.7, 16, 0.5, 40),
    EMBEDDINGS: (300, 0.8, 0, 0.9, 40),
    BATCH: (700, 0.8, 350, 0.9, 300),
}


@dataclass(frozen=True)
class Turn:
    new: int  # tokens
    output: int
    think: float  # seconds from the last response


@dataclass(frozen=True)
class Session:
    number: int
    kind: str  # also the client, which has an API key of its own
    model: str
    start: float
    system: str
    system_tokens: int
    conversation: str
    turns: tuple[Turn, ...]
    document: int = 0  # tokens of a document that other sessions share


def log_normal(random: Random, mean: float, spread: float) -> float:
    return mean * math.exp(random.gauss(0, spread) - spread * spread / 2) if spread else mean


def _zipf(random: Random, count: int) -> int:
    """Draw a number below `count`; the second is half as frequent as the first."""
    left = random.random() * sum(1 / rank for rank in range(1, count + 1))
    for rank in range(1, count + 1):
        left -= 1 / rank
        if left <= 0:
            return rank - 1
    return count - 1


def sessions(fleet: Fleet, rate: float, requests: int, seed: int, *, think: float = 1.0) -> list[Session]:
    """Return sessions that start at random, with `requests` requests at `rate` per second in all.

    `think` multiplies the time between turns; 0 is for measuring saturation.
    """
    random = Random(seed)
    documents = [int(log_normal(random, 2200, 0.6)) for _ in range(_DOCUMENTS)]
    mix = {kind: getattr(fleet.mix, kind) / _TURNS.get(kind, 1) for kind in KINDS}
    shares = sum(getattr(fleet.mix, kind) for kind in KINDS)
    session_rate = rate * sum(mix.values()) / shares
    all_sessions: list[Session] = []
    now, count = 0.0, 0
    while count < requests:
        now += random.expovariate(session_rate)
        (kind,) = random.choices(KINDS, [mix[kind] for kind in KINDS])
        model = f"m{_zipf(random, len(fleet.loads))}" if fleet.loads else "m0"
        one = _session(fleet.mix, (len(all_sessions), now), (kind, model), documents, random, think)
        all_sessions.append(one)
        count += len(one.turns)
    return all_sessions


def _session(
    mix: Mix,
    number_and_start: tuple[int, float],
    of: tuple[str, str],
    documents: list[int],
    random: Random,
    think: float,
) -> Session:
    """`number_and_start`: those of the session. `of`: its kind and model. `documents`: their lengths."""
    (number, start), (kind, model) = number_and_start, of
    new, spread, output, output_spread, system_tokens = _LENGTHS[kind]
    which, document, conversation = 0, 0, f"c{number}"
    if kind == AGENTS:
        which = 0 if random.random() < mix.hot else random.randrange(mix.prompts)
        system_tokens += 700 * which
    elif kind == CHAT:
        which = random.randrange(4)
        system_tokens += 100 * which
    elif kind == RAG:
        document_at = _zipf(random, _DOCUMENTS)
        document, conversation = int(documents[document_at] * mix.scale), f"d{document_at}"
    turns = []
    for _ in range(_turns(random, kind)):
        pause = 0.0
        if kind == CHAT:
            pause = think * (3 + random.expovariate(1 / 15))
        elif kind == AGENTS:
            pause = think * (0.3 + random.expovariate(1 / 1.5))
        tokens = min(_LONGEST_PROMPT, int(log_normal(random, new, spread) * mix.scale) + 4)
        written = min(_LONGEST_OUTPUT, max(4, int(log_normal(random, output, output_spread)))) if output else 0
        turns.append(Turn(tokens, written, pause))
    system = f"{model}/{kind}{which}"
    tokens = int(system_tokens * mix.scale)
    return Session(number, kind, model, start, system, tokens, f"{model}/{conversation}", tuple(turns), document)


def _turns(random: Random, kind: str) -> int:
    count = 1
    if kind in _TURNS:
        while count < 40 and random.random() > 1 / _TURNS[kind]:
            count += 1
    return count


def contexts(session: Session) -> Iterator[tuple[Turn, int, int]]:
    """Yield each turn with the tokens of its history, and of its whole prompt."""
    history = session.document
    for turn in session.turns:
        yield turn, history, session.system_tokens + history + turn.new
        if not session.document:
            history += turn.new + turn.output

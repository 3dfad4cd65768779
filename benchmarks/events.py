"""CPU time of one stream event that arrives alone, by three ways to recognise that it holds only text.

    python -m benchmarks.events [--rounds N]

Each way takes a read that is one chunk of the body, counts its event, and returns the chunk to send: `read` decodes
each event, `typed` first tries a strict typed decoder, which accepts nothing but the usual event, and `template` is
what gateways do (gateway/dialects/repeated_event.py). The streams have the shapes of real servers: captured ones of
vLLM, llama.cpp and transformers, and those that OpenAI and Ollama document. Ways take turns; the minimum of all rounds
counts.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from gateway.base.request_kinds import CHAT
from gateway.dialects import sse_relay
from gateway.dialects.openai_events import dialect
from gateway.dialects.sse_relay import StreamRelay
from tests.gateway.captures import load

WORDS = " The| function| returns| a| list| of| numbers|.\\n\\n|def| squares|(n|):\\n|   | return| [|i| *| i| for| i| in"
WORDS += '| range|(n|)]\\n|\\n|print|(squares|(|5|),| \\"|done|\\")\\n'
REPEATS = 8  # of WORDS in a stream
DONE = b"data: [DONE]\n\n"
OPENAI = (
    b'{"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,'
    b'"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_fc9f1d7035","choices":[{"index":0,'
    b'"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"@"}'
)
OLLAMA = (
    b'{"id":"chatcmpl-123","object":"chat.completion.chunk","created":1741570283,"model":"llama3.2",'
    b'"system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":"Hello"},'
    b'"finish_reason":null}]}'
)


@dataclass(frozen=True)
class Shape:
    model: str
    first: list[bytes]
    text: bytes  # an event with the text "Hello"
    last: list[bytes]

    def events(self) -> Iterator[bytes]:
        yield from self.first
        for number, word in enumerate(WORDS.split("|") * REPEATS):
            event = self.text.replace(b'"Hello"', b'"%b"' % word.encode())
            yield event.replace(b'"@"', b'"%x"' % (number * 7919))
        yield from self.last


def captured(server: str) -> Shape:
    capture = load(server, "chat_stream_usage")
    events = capture.events
    at = next(number for number, event in enumerate(events) if b'"Hello"' in event)
    last = next(number for number, event in enumerate(events) if b'"length"' in event or b'"stop"' in event)
    return Shape(capture.model, events[:at], events[at], events[last:])


def documented(model: str, event: bytes) -> Shape:
    return Shape(model, [], b"data: %b\n\n" % event, [DONE])


SHAPES = {
    "vLLM": captured("vllm"),
    "llama.cpp": captured("llama.cpp"),
    "transformers": captured("transformers"),
    "Ollama": documented("llama3.2", OLLAMA),
    "OpenAI": documented("gpt-4o-2024-08-06", OPENAI),
}

# The strict typed decoder


class _Delta(msgspec.Struct):
    content: str
    role: str | None = None
    reasoning: None = None
    reasoning_content: None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    index: int = 0
    finish_reason: None = None
    text: None = None


class _Chunk(msgspec.Struct):
    choices: tuple[_Choice]
    model: str
    usage: None = None
    error: None = None


_decode = msgspec.json.Decoder(_Chunk).decode


def match_typed(relay: StreamRelay, chunk: bytes) -> bytes | None:
    """Relay a chunk by the typed decoder."""
    at = chunk.find(b"\r\n") + 2
    if relay.events < 2 or relay._pending or chunk[: at - 2] != b"%x" % (len(chunk) - at - 2):
        return None
    if chunk[at : at + 6] != b"data: " or chunk[-4:] != b"\n\n\r\n" or chunk.count(b"\n") != 4:
        return None
    try:
        event = _decode(chunk[at + 6 : -4])
    except msgspec.MsgspecError:
        return None
    return chunk if event.choices[0].delta.content and event.model == relay._requested_model else None


def match_template(relay: StreamRelay, chunk: bytes) -> bytes | None:
    """Relay a chunk by the template of the last event."""
    template = relay.chunk_template
    return None if template is None else template.match_chunk(chunk)


def new_relay(way: str, shape: Shape) -> StreamRelay:
    relay = StreamRelay(dialect(CHAT), shape.model, hide_usage=True)
    if way != "template":
        relay.mismatches = sse_relay.MAX_MISMATCHES  # no templates
    return relay


def relay_all(way: str, relay: StreamRelay, chunks: list[bytes]) -> int:
    """Relay a stream; return how many chunks were not parsed."""
    match = match_typed if way == "typed" else match_template
    short = 0
    for chunk in chunks:
        if match(relay, chunk) is not None:
            relay.events += 1
            relay.deltas += 1
            short += 1
            continue
        out = relay.feed(chunk[chunk.index(b"\r\n") + 2 : -2])
        b"%x\r\n%b\r\n" % (len(out), out)
    return short


def measure(way: str, shape: Shape, chunks: list[bytes], clock: Callable[[], float]) -> tuple[float, float]:
    """Return µs for each event, and the share of events that were not parsed."""
    relay = new_relay(way, shape)
    before = clock()
    short = relay_all(way, relay, chunks)
    micros = (clock() - before) * 1e6 / len(chunks)
    assert relay.deltas >= len(WORDS.split("|")) * REPEATS
    return micros, short / len(chunks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    print("| shape | read, µs | typed, µs (share) | template, µs (share) |\n|---|--:|--:|--:|")
    for name, shape in SHAPES.items():
        chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in shape.events()]
        found: dict[str, list[tuple[float, float]]] = {"read": [], "typed": [], "template": []}
        for _ in range(options.rounds):
            for way, samples in found.items():
                samples.append(measure(way, shape, chunks, time.thread_time))
        best = {way: min(samples) for way, samples in found.items()}
        cells = [f"{micros:.2f} ({share:.0%})" for micros, share in (best["typed"], best["template"])]
        print(f"| {name} | {best['read'][0]:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

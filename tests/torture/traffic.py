"""Client process that sends requests at a steady rate and reports the end of each.

    python -m tests.torture.traffic URL KEY [KEY …] --rate 80 [--clouds] [--ollama URL]

It obeys lines on standard input (`go`, `pause`, `quit`) and writes JSON lines to standard output: one for each
request that ended, and `{"paused": true}` once no request is in flight.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import aiohttp

TIMEOUT_SECONDS = 60.0
MAX_OPEN = 200

# How a request ended, as the client saw it.
OK = "ok"  # a complete response
FAILED = "failed"  # a complete 502 or 504, or a stream that reported an error and ended properly
NO_ENDPOINT = "no_endpoint"  # a complete 503
REJECTED = "rejected"  # a complete 401 or 404 of RouterDash itself
LIMITED = "limited"  # a complete error for a model of a throttling cloud
LEFT = "left"  # this client closed the connection in the middle of the response
BROKEN = "broken"  # the connection broke: the request may be recorded or not
UNSENT = "unsent"  # no connection: RouterDash never received the request
ODD = "odd"  # anything else, which is an error

# Requested models and their frequency. Each model has one endpoint (run.py), except `shared` and `sized`.
MODELS = {
    "whole": 25, "second": 15, "sized": 12, "native": 8, "flaky": 12, "dies": 6, "shared": 12, "slow": 8, "edited": 5,
    "nobody": 2,
}  # fmt: skip
# Half of the requests for these are sent to Ollama's own API. Their responses have no counts that it does not know.
OLLAMA_MODELS = ("native", "shared", "slow")
# With `--clouds` also these: models of simulated clouds, and a model name whose steps lead from one to `whole`.
CLOUD_MODELS = {"throttled": 8, "thinking": 8, "reasoner": 8, "chained": 12}
REFUSALS = (429, 502, 503, 529)  # of a cloud, or of RouterDash while it is set aside
STREAMED = {"dies": 1.0, "slow": 1.0}  # share of streams; 0.5 for other models


@dataclass(frozen=True, slots=True)
class Ended:
    """One line of the tally."""

    model: str
    end: str
    at: float  # seconds since 1970
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # this and the next two: 0 if the response reports none
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    detail: str = ""
    id: str = ""  # of the request; empty if no response has begun
    key: int = 0  # number of the API key
    started: float = 0.0  # seconds since 1970


class Client:
    """Sender of requests that can be paused."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        keys: Sequence[str],
        rate: float,
        seed: int,
        emit: Callable[[Any], None],
        *,
        clouds: bool = False,
        ollama: str = "",
    ) -> None:
        """`ollama`: address of RouterDash's second port. Without it, Ollama's API is only used below `/ollama`."""
        self._session = session
        self._keys = keys
        self._url = f"{url}/v1/chat/completions"
        self._ollama = [f"{url}/ollama", *filter(None, [ollama])]
        self._models = MODELS | (CLOUD_MODELS if clouds else {})
        self._rate = rate
        self._rng = random.Random(seed)
        self._emit = emit
        self._going = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send one request every 1/rate seconds, even if earlier ones have not ended."""
        names, weights = zip(*self._models.items(), strict=True)
        due = time.monotonic()
        while True:
            await self._going.wait()
            due = max(due + 1 / self._rate, time.monotonic() - 0.5)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._going.is_set() and len(self._open) < MAX_OPEN:
                (model,) = self._rng.choices(names, weights)
                task = asyncio.create_task(self._one(model))
                self._open.add(task)
                task.add_done_callback(self._open.discard)

    async def obey(self, command: str) -> None:
        if command == "go":
            self._going.set()
        elif command == "pause":
            self._going.clear()
            while self._open:
                await asyncio.wait(set(self._open))
            self._emit({"paused": True})

    async def _one(self, model: str) -> None:
        streamed = self._rng.random() < STREAMED.get(model, 0.5)
        ollama = self._rng.choice(self._ollama) if model in OLLAMA_MODELS and self._rng.random() < 0.5 else None
        key, started = self._rng.randrange(len(self._keys)), time.time()
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "go on"}], "stream": streamed}
        if model == "thinking":
            text = {"type": "text", "text": "go on with the cached text", "cache_control": {"type": "ephemeral"}}
            body |= {"messages": [{"role": "user", "content": [text]}], "reasoning_effort": "low"}
        if streamed and ollama is None:
            body["stream_options"] = {"include_usage": True}
        url = self._url if ollama is None else f"{ollama}/api/chat"
        try:
            ended = await self._send(model, url, body, {"Authorization": f"Bearer {self._keys[key]}"})
        except aiohttp.ClientConnectorError as error:
            ended = Ended(model, UNSENT, time.time(), detail=repr(error))
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            ended = Ended(model, BROKEN, time.time(), detail=repr(error))
        self._emit(asdict(replace(ended, key=key, started=started)))

    async def _send(self, model: str, url: str, body: dict[str, Any], headers: Mapping[str, str]) -> Ended:
        async with self._session.post(url, json=body, headers=headers) as response:
            request_id = response.headers.get("x-request-id", "")
            if model == "slow" and response.status == 200:
                await response.content.readany()
                response.close()
                return Ended(model, LEFT, time.time(), id=request_id)
            text = await response.read()
        judged = judge_lines if url.endswith("/api/chat") else judge
        return replace(judged(model, response.status, text, streamed=bool(body["stream"])), id=request_id)


def judge(model: str, status: int, text: bytes, *, streamed: bool) -> Ended:
    """Return the line for a complete response."""
    now = time.time()
    if status == 200:
        if streamed and not text.endswith(b"data: [DONE]\n\n"):
            end = FAILED if b'"error"' in text else ODD
            return Ended(model, end, now, detail=repr(text[-200:]))
        usage = _usage(text, streamed=streamed)
        of_input, of_output = (usage.get(f"{name}_tokens_details", {}) for name in ("prompt", "completion"))
        return Ended(
            model,
            OK,
            now,
            usage["prompt_tokens"],
            usage["completion_tokens"],
            of_input.get("cached_tokens", 0),
            of_input.get("cache_write_tokens", 0),
            of_output.get("reasoning_tokens", 0),
        )
    code = _code(text)
    if model in CLOUD_MODELS and status in REFUSALS:
        return Ended(model, LIMITED, now, detail=f"{status} {code}")
    end = {
        (502, "upstream_error"): FAILED,
        (504, "upstream_timeout"): FAILED,
        (503, "no_capable_endpoints"): NO_ENDPOINT,
        (404, "model_not_found"): REJECTED,
    }.get((status, code), ODD)
    return Ended(model, end, now, detail=f"{status} {code}")


def judge_lines(model: str, status: int, text: bytes, *, streamed: bool) -> Ended:
    """Return the line for a complete response of Ollama's own API: lines of JSON if it is a stream, else an object."""
    now = time.time()
    *_, last = text.rstrip(b"\n").rsplit(b"\n", 1)
    try:
        answer = json.loads(last)
    except ValueError:
        return Ended(model, ODD, now, detail=repr(text[-200:]))
    if status == 200:
        if answer.get("done") is True:
            return Ended(model, OK, now, answer["prompt_eval_count"], answer["eval_count"])
        return Ended(model, FAILED if "error" in answer else ODD, now, detail=repr(text[-200:]))
    end = {502: FAILED, 504: FAILED, 503: NO_ENDPOINT, 404: REJECTED}.get(status, ODD)
    return Ended(model, end if isinstance(answer.get("error"), str) else ODD, now, detail=repr(text[-200:]))


def _usage(text: bytes, *, streamed: bool) -> Mapping[str, Any]:
    """Return the usage of the last event before [DONE], or of the complete object."""
    last = text.rsplit(b"data: ", 2)[1] if streamed else text
    usage: Mapping[str, Any] = json.loads(last)["usage"]
    return usage


def _code(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return repr(text[:100])


async def _main(url: str, keys: Sequence[str], rate: float, seed: int, *, clouds: bool, ollama: str) -> None:
    def emit(line: Any) -> None:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    options: dict[str, Any] = {
        "connector": aiohttp.TCPConnector(limit=0),
        "timeout": aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
    }
    async with aiohttp.ClientSession(**options) as session:
        client = Client(session, url, keys, rate, seed, emit, clouds=clouds, ollama=ollama)
        sending = asyncio.create_task(client.run())
        while (line := await commands.readline()) and line != b"quit\n":
            await client.obey(line.decode().strip())
        sending.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description="A client that counts its responses.")
    parser.add_argument("url")
    parser.add_argument("keys", nargs="+")
    parser.add_argument("--rate", type=float, default=80.0, help="requests a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clouds", action="store_true", help="request models of clouds too")
    parser.add_argument("--ollama", default="", help="address of the port for Ollama's own API")
    options = parser.parse_args()
    asyncio.run(
        _main(options.url, options.keys, options.rate, options.seed, clouds=options.clouds, ollama=options.ollama)
    )


if __name__ == "__main__":
    main()

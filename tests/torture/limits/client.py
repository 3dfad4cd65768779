"""Client process of the limited keys: it sends requests of each key at a steady rate, and reports the end of each.

    python -m tests.torture.limits.client URL --seed 1 < keys

The first line of standard input has a list of [key, model, requests a second] in JSON. It then obeys `go`, `pause` and
`quit`, and writes JSON lines to standard output: one for each request that ended, and `{"paused": true}` once no
request is in flight.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp

from tests.torture.limits.subjects import LONG, OUTPUT

TIMEOUT_SECONDS = 90.0
MAX_OPEN = 60  # of one key
LEAVE_RATE = 0.03  # of streams that the client does not read to the end
BULK_RATE = 0.4  # of requests that are bulk requests

OK = "ok"
LEFT = "left"  # this client closed the connection in the middle of the response
BROKEN = "broken"  # the connection broke: the request may be recorded or not
UNSENT = "unsent"
REFUSED = "refused"  # 429 or 503 with a code
ODD = "odd"


@dataclass(slots=True)
class Ended:
    """One line of the tally. Times are those of time.monotonic()."""

    number: int  # of the request
    key: int
    model: str
    sent: float
    ended: float
    end: str
    status: int = 0
    code: str = ""
    by: str = ""  # of a refusal: x-routerdash-limit
    retry_after: str = ""
    tokens: int = 0
    detail: str = ""
    bulk: bool = False


class Client:
    """Sends the requests of all keys."""

    def __init__(self, session: aiohttp.ClientSession, url: str, seed: int) -> None:
        self._session = session
        self._url = f"{url}/v1/chat/completions"
        self._rng = random.Random(seed)
        self._going = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        self._number = 0

    async def send_of(self, key: int, secret: str, model: str, rate: float) -> None:
        """Send requests of a key at random intervals, even if earlier ones have not ended."""
        own: set[asyncio.Task[None]] = set()
        while True:
            await self._going.wait()
            await asyncio.sleep(self._rng.expovariate(rate))
            if not self._going.is_set() or len(own) >= MAX_OPEN:
                continue
            self._number += 1
            task = asyncio.create_task(self._one(self._number, key, secret, model))
            for tasks in (own, self._open):
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def obey(self, command: str) -> None:
        if command == "go":
            self._going.set()
        elif command == "pause":
            self._going.clear()
            while self._open:
                await asyncio.wait(set(self._open))
            emit({"paused": True})

    async def _one(self, number: int, key: int, secret: str, model: str) -> None:
        ended = Ended(number, key, model, time.monotonic(), 0.0, BROKEN, bulk=self._rng.random() < BULK_RATE)
        try:
            await self._send(ended, secret)
        except aiohttp.ClientConnectorError as error:
            ended.end, ended.detail = UNSENT, repr(error)
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            ended.detail = repr(error)
        ended.ended = ended.ended or time.monotonic()
        emit(asdict(ended))

    async def _send(self, ended: Ended, secret: str) -> None:
        streamed = ended.model == LONG
        body = request_body(ended.number, ended.model, streamed=streamed)
        leaves = streamed and self._rng.random() < LEAVE_RATE
        headers = {"Authorization": f"Bearer {secret}"}
        if ended.bulk:
            headers["x-routerdash-class"] = "bulk"
        async with self._session.post(self._url, json=body, headers=headers) as response:
            ended.status = response.status
            if leaves and response.status == 200:
                await response.content.readany()
                ended.ended, ended.end = time.monotonic(), LEFT
                response.close()
                return
            text = await response.read()
            judge_response(ended, text, dict(response.headers), streamed=streamed)


def request_body(number: int, model: str, *, streamed: bool) -> dict[str, Any]:
    """Return the body of a request; all have the same size."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "go on " * 20}],
        "stream": streamed,
    }
    if streamed:
        body["stream_options"] = {"include_usage": True}
    return body | {"max_tokens": OUTPUT, "user": f"{number:09d}"}


def judge_response(ended: Ended, text: bytes, headers: dict[str, str], *, streamed: bool) -> None:
    """Complete the line of a complete response."""
    if ended.status == 200 and not (streamed and not text.endswith(b"data: [DONE]\n\n")):
        last = text.rsplit(b"data: ", 2)[1] if streamed else text
        usage = json.loads(last)["usage"]
        ended.end, ended.tokens = OK, usage["prompt_tokens"] + usage["completion_tokens"]
        return
    lowered = {name.lower(): value for name, value in headers.items()}
    ended.by, ended.retry_after = lowered.get("x-routerdash-limit", ""), lowered.get("retry-after", "")
    try:
        if ended.status == 200:  # it had waited for so long that its stream had begun
            text = text.rsplit(b"data: ", 1)[-1]
        ended.code = str(json.loads(text)["error"]["code"])
        ended.end = REFUSED
    except (ValueError, KeyError, TypeError):
        ended.end, ended.detail = ODD, repr(text[-200:])


def emit(line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def _main(url: str, keys: Sequence[tuple[str, str, float]], seed: int, commands: asyncio.StreamReader) -> None:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        client = Client(session, url, seed)
        sending = [
            asyncio.create_task(client.send_of(number, secret, model, rate))
            for number, (secret, model, rate) in enumerate(keys)
        ]
        while (line := await commands.readline()) and line != b"quit\n":
            await client.obey(line.decode().strip())
        for task in sending:
            task.cancel()


async def _begin(url: str, seed: int) -> None:
    commands = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    keys = json.loads(await commands.readline())
    await _main(url, keys, seed, commands)


def main() -> None:
    parser = argparse.ArgumentParser(description="A client with many API keys that counts its responses.")
    parser.add_argument("url")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    asyncio.run(_begin(options.url, options.seed))


if __name__ == "__main__":
    main()

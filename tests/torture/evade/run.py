"""A run: an installation, a key for each form, and clients that send all forms over and over, in random order."""

import asyncio
import json
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from benchmarks.simulator import Simulator
from tests.router import RouterDash, until
from tests.routerdash.commands import python
from tests.torture.evade import server
from tests.torture.evade.forms import (
    AFTER_FIRST,
    BUDGET,
    CHAT,
    FORBIDDEN,
    READ,
    READERS,
    RESPONSES,
    Form,
    all_forms,
)
from tests.torture.evade.judge import Row, judge
from tests.torture.evade.server import Served
from tests.torture.run import Result

AT_ONCE = 24  # requests
WAITERS = 3  # keys of one concurrent request, which send several
TIMEOUT_SECONDS = 60.0
SHOWN = 12  # differences
NOBODY = '{"model":"vllm-small","messages":[],"max_tokens":4000}'  # does not fit a budget


class Client:
    """Sends requests, and notes their ids and statuses."""

    def __init__(self, port: int, forms: Sequence[Form], secrets: Sequence[str]) -> None:
        self.sent: dict[str, int] = {}  # number of the form, by request id
        self.statuses = Counter[int]()
        self.failed = Counter[str]()  # names of forms that got 500
        self._port = port
        self._forms = forms
        self._secrets = secrets
        self._room = asyncio.Semaphore(AT_ONCE)

    async def send_all(self, plan: Sequence[int], waiters: Sequence[str]) -> None:
        """Send the forms with these numbers; the keys `waiters` wait for their limit meanwhile."""
        waiting = [asyncio.create_task(self._wait_on(secret)) for secret in waiters for _ in range(3)]
        await asyncio.gather(*[self._send(number, f"{number}-{position}") for position, number in enumerate(plan)])
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _wait_on(self, secret: str) -> None:
        body = '{"model":"vllm-small","messages":[],"max_tokens":30,"user":"fault=slow"}'
        while True:
            with suppress(OSError, TimeoutError):
                await self._one("POST", CHAT, body, secret, "waiter", "")

    async def _send(self, number: int, request_id: str) -> None:
        form, secret = self._forms[number], self._secrets[number]
        async with self._room:
            self.sent[request_id] = number
            status, answer = await self._one("POST", form.path, form.body, secret, request_id, form.cut)
            self.statuses[status] += 1
            self.failed[form.name] += status == 500
            for step, then in enumerate(form.then):
                if status != 200:
                    return
                path = f"{RESPONSES}/{json.loads(answer)['id']}"
                self.sent[f"{request_id}-{step}"] = number
                verb, target = ("GET", path) if then == READ else ("POST", f"{path}/cancel")
                await self._one(verb, target, "", secret, f"{request_id}-{step}", "")

    async def _one(self, verb: str, path: str, body: str, secret: str, request_id: str, cut: str) -> tuple[int, bytes]:
        """Send a request on a connection of its own. Return the status, 0 if it left before, and the body."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                data = body.encode()
                writer.write(
                    f"{verb} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAuthorization: Bearer {secret}\r\n"
                    f"x-request-id: {request_id}\r\nContent-Type: application/json\r\nConnection: close\r\n"
                    f"Content-Length: {len(data)}\r\n\r\n".encode()
                    + data
                )
                if cut and cut != AFTER_FIRST:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(server.SLOW_SECONDS / 2):
                            return await _read(reader)
                    return 0, b""
                return await _read(reader, end=b'"the "' if cut else b"")
            finally:
                writer.transport.abort()


async def _read(reader: asyncio.StreamReader, end: bytes = b"") -> tuple[int, bytes]:
    """Read a response to its end, or until the client has seen `end` in it. Return status and body."""
    received = b""
    while data := await reader.read(1 << 16):
        received += data
        if end and end in received:
            break
    head, _, body = received.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        body = b"".join(line for line in body.split(b"\r\n")[1::2])
    return int(head.split(b" ", 2)[1] if head else 0), body


def _make_keys(router: RouterDash, forms: Sequence[Form], waiters: int) -> list[str]:
    """Return the secrets of a key for each form, and of keys that wait."""
    code = (
        "import json\n"
        "from access.limits.tables import BudgetRow, LimitRow\n"
        "from access.models import INFERENCE, ApiKey, User\n"
        "owner, secrets = User.objects.create_user('evading', password=None), []\n"
        f"for number, has_budget in enumerate({[form.has_budget for form in forms]!r}):\n"
        "    row, secret = ApiKey.issue(owner, f'evading {number}', [INFERENCE])\n"
        f"    row.rules = {{'forbidden_models': {list(FORBIDDEN)!r}}}\n"
        "    row.save()\n"
        "    if has_budget:\n"
        "        BudgetRow.objects.create(level='key', subject_id=str(row.pk), unit='tokens', period='total',\n"
        f"            amount={BUDGET}, hard=True)\n"
        "    secrets.append(secret)\n"
        f"for number in range({waiters}):\n"
        "    row, secret = ApiKey.issue(owner, f'waiting {number}', [INFERENCE])\n"
        "    LimitRow.objects.create(level='key', subject_id=str(row.pk), concurrency=1, waiting=['concurrency'])\n"
        "    secrets.append(secret)\n"
        "print(json.dumps(secrets))\n"
    )
    done = python(code, **router.environment)
    assert done.code == 0, done.err
    secrets: list[str] = json.loads(done.out.splitlines()[-1])
    return secrets


def torture_evade(*, requests: int, workers: int, seed: int) -> Result:
    """Send so many requests, and judge."""
    forms, result = all_forms(), Result(f"evade, workers: {workers}, seed {seed}")
    served: dict[str, list[Served]] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="routerdash-torture-")))
        environment = {"ROUTERDASH_WORKERS": str(workers), "ROUTERDASH_LOG_LEVEL": "warning"}
        router = RouterDash(directory, **environment)
        stack.callback(router.kill)
        router.start()
        simulator = stack.enter_context(Simulator())
        ids = [router.register(server.add(simulator, reader, served), reader) for reader in READERS]
        until(lambda: all(router.serves(endpoint_id, 2) for endpoint_id in ids), 30)
        secrets = _make_keys(router, forms, WAITERS)
        until(lambda: router.post(CHAT, NOBODY.encode(), key=secrets[0]).status == 429, 30)
        plan = [number % len(forms) for number in range(requests)]
        random.Random(seed).shuffle(plan)
        client, begin = Client(router.port, forms, secrets), time.monotonic()
        asyncio.run(client.send_all(plan, secrets[len(forms) :]))
        result.seconds, result.sent = time.monotonic() - begin, len(client.sent)
        until(lambda: router.stats()["total_active_requests"] == 0, 30)
        until(lambda: router.stats()["records_waiting"] == 0, 60)
        verdict = judge(forms, client.sent, served, _rows(router))
        done = router.manage("reconcile", timeout=300)
        if done.returncode:
            verdict.wrong += [f"reconcile: {line}" for line in (done.stdout + done.stderr).splitlines()[-SHOWN:]]
        verdict.wrong += [f"{name}: 500, {times} times" for name, times in client.failed.items() if times]
        result.whole, result.audits = client.statuses[200], 1
    result.measurements = [
        f"{len(forms)} forms; statuses: {dict(sorted(client.statuses.items()))}",
        f"{verdict.served} requests reached a server and used {verdict.tokens:,} tokens there",
        f"{verdict.uncounted:,} tokens of cut streams are not counted",
        f"most over a budget of {BUDGET:,} tokens: {verdict.most_over:,}",
    ]
    more = len(verdict.wrong) - SHOWN
    result.wrong = verdict.wrong[:SHOWN] + ([f"{more} more differences"] if more > 0 else [])
    return result


def _rows(router: RouterDash) -> dict[str, list[Row]]:
    rows = defaultdict[str, list[Row]](list)
    columns = "request_id, outcome, input_tokens, output_tokens, tokens_estimated"
    for request_id, outcome, made, out, is_estimated in router.query(f"SELECT {columns} FROM request_history"):
        if request_id is not None and outcome != "rejected":
            rows[str(request_id)].append(Row(outcome, made, out, bool(is_estimated)))
    return rows

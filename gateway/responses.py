"""OpenAI's Responses: an answer stays at the endpoint that made it, and whatever is asked about it goes there.

Which endpoint made which is remembered for the last thousands; of an older one, or of one that another gateway has
seen, each endpoint is asked in turn: all but one answer that they do not have it.
"""

import logging
import time
from collections import OrderedDict
from typing import Any

import msgspec

from gateway import errors, targets
from gateway.balancer import EXCLUDED, MADE_IT, SEARCHED, Decision
from gateway.errors import Refusal
from gateway.inference import NOT_THERE, Inference
from gateway.openai import Request, Usage, parse_request, read_answer
from gateway.outbox import Body
from gateway.relay import StreamRelay
from gateway.roster import Endpoint, Route
from gateway.snapshot import Model
from gateway.upstream import UpstreamError

log = logging.getLogger(__name__)

MAX_REMEMBERED = 10_000
SEARCH_SECONDS = 5.0  # for an endpoint to say whether it has a response


class Makers:
    """The endpoint that made each of the last responses."""

    def __init__(self) -> None:
        self._made: OrderedDict[str, str] = OrderedDict()

    def note(self, response_id: str, endpoint_id: str) -> None:
        if not targets.is_id(response_id):
            return  # nobody can ask for it
        self._made[response_id] = endpoint_id
        self._made.move_to_end(response_id)
        if len(self._made) > MAX_REMEMBERED:
            self._made.popitem(last=False)

    def of(self, response_id: str) -> str | None:
        return self._made.get(response_id)


class _Asked(msgspec.Struct):
    previous_response_id: Any = None


class _Made(msgspec.Struct):
    id: Any = None
    model: Any = None


_decode_asked = msgspec.json.Decoder(_Asked).decode
_decode_made = msgspec.json.Decoder(_Made).decode


def _made(body: bytes) -> _Made:
    try:
        return _decode_made(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Made()


class ResponsesInference(Inference):
    """POST /v1/responses. One that goes on from another goes to the endpoint that has the other."""

    def _parse(self, body: Body) -> Request:
        request = parse_request(body)
        if b"previous_response_id" in body:
            try:
                previous = _decode_asked(body).previous_response_id
            except (msgspec.DecodeError, UnicodeDecodeError):
                previous = None  # `parse_request` took it; whatever it is, the endpoint may say
            self.made_by = self.gateway.makers.of(previous) if isinstance(previous, str) else None
        return request

    def _read(self, body: bytes, asked: str) -> tuple[bytes, Usage | None]:
        self._remember(_made(body).id)
        return read_answer(body, asked)

    def _finish(self, *args: Any, **details: Any) -> None:
        if isinstance(self.relay, StreamRelay):
            self._remember(self.relay.response_id)
        super()._finish(*args, **details)

    def _remember(self, response_id: object) -> None:
        if isinstance(response_id, str) and self.route is not None:
            self.gateway.makers.note(response_id, self.route.endpoint.id)


class StoredResponse(Inference):
    """GET and DELETE /v1/responses/{id}, POST …/cancel, GET …/input_items: passed to where the response is."""

    def _parse(self, body: Body) -> Request:
        stored = targets.stored(self.exchange.path)
        assert stored is not None  # or no route had led here
        self._stored = stored
        self.target = stored.path
        return Request("", False, False)

    def _add_query(self) -> None:
        if self.exchange.method in (b"GET", b"HEAD"):
            self.target += targets.query(self._stored.query, self.exchange.query)

    async def _serve(self, body: Body) -> None:
        self.gateway.running.add(self)
        try:
            await self._search(body)
        except BaseException as error:  # noqa: BLE001  # raised again there
            self._ended_by(error)
        finally:
            self._let_go()

    async def _search(self, body: Body) -> None:
        response_id = self._stored.response_id
        for endpoint, reason in self._candidates(response_id):
            endpoint.enter()  # whatever slots are taken: nothing is generated
            self.route, self.endpoint = Route(endpoint, Model("")), endpoint
            self.decision = Decision(endpoint.id, reason, ())
            if await self._found(endpoint, body):
                return
            self._leave()
        raise Refusal(404, errors.NOT_FOUND, f"No endpoint that can be asked has the response {response_id!r}.")

    def _candidates(self, response_id: str) -> list[tuple[Endpoint, str]]:
        roster = self.gateway.roster
        maker = roster.endpoints.get(self.gateway.makers.of(response_id) or "")
        if maker is not None:
            return [(maker, MADE_IT)]
        asked = sorted((it for it in roster.endpoints.values() if it.rank < EXCLUDED), key=lambda it: it.rank)
        return [(it, SEARCHED) for it in asked]

    async def _found(self, endpoint: Endpoint, body: Body) -> bool:
        """Has the client its answer? An endpoint that does not have the response was not tried in vain: it is fine."""
        self.started = time.monotonic()
        try:
            connection = await self._send(endpoint, (body,), timeout=SEARCH_SECONDS)
            if connection.status in NOT_THERE:
                await connection.read_all()
                return False
            if connection.status < 400 and connection.answer.is_stream:
                failure = await self._stream(connection)
                if failure is not None:
                    self._give_up(failure)
                return True
            answer = await connection.read_all()
        except UpstreamError as error:
            log.info("%s could not be asked for a response: %s", endpoint.facts.name, error)
            self._hang_up()
            return False
        except BaseException:
            self._hang_up()
            raise
        self._whole(connection, answer)
        return True

    def _read(self, body: bytes, asked: str) -> tuple[bytes, Usage | None]:
        """Its tokens were counted when it was made."""
        model = _made(body).model
        if isinstance(model, str):
            self.request = Request(model, False, False)
        return body, None


def check_path(path: bytes) -> bytes | None:
    """The methods that a path below /v1/responses/ takes, separated by commas; None if there is no such thing."""
    found = targets.stored(path)
    return None if found is None else found.methods

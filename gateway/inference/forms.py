"""Forms with files, such as audio to transcribe: they are streamed to the endpoint, and not stored.

The part of a form that arrived before its model was known, and a little more, is stored as long as failover to another
endpoint may need it.
"""

from gateway.base.request_kinds import Kind
from gateway.base.types import Body
from gateway.dialects.deciding_fields import FIELDS
from gateway.dialects.multipart import Form
from gateway.dialects.openai_requests import Request
from gateway.http.exchange import Exchange
from gateway.inference.api import MediaApi
from gateway.inference.attempt import Attempt
from gateway.inference.inference import serve
from gateway.inference.limiting.checked_bodies import is_restricted
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import check_loop, request_header, response_timeout
from gateway.inference.services import Services
from gateway.inference.waiting import set_class
from gateway.upstream.connection import Connection

MAX_STORED_BYTES = 1 << 20  # of a form, for failover


class FormApi(MediaApi):
    """The API of one request whose body is multipart/form-data."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self._form: Form

    async def read_fields(self, request: InferenceRequest) -> Request:
        """Read a form until its model is known; return its fields. Raises Refusal."""
        exchange = request.exchange
        checked = FIELDS if is_restricted(request) else ()
        form = self._form = Form(exchange.head.fields.get(b"content-type", b""), checked)
        while form.model is None:
            data = await exchange.read_body()
            if data:
                form.feed(data)
                exchange.reserve(form.size)
            else:
                form.finish()
        return Request(form.model, form.stream, False)

    def can_resend(self) -> bool:
        return bool(self._form.held)

    async def send(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        form, exchange, route, endpoint = self._form, request.exchange, attempt.route, attempt.endpoint
        model = route.model.id if route.model.id != form.model else None
        length = None if exchange.length is None else exchange.length + form.growth(model)
        # A new connection: an idle one may turn out to be stale when half of the form has been sent.
        connection = attempt.connection = await endpoint.pool.connect_for(attempt)
        header_block = request_header(request, endpoint, b"", length)
        connection.begin(header_block, response_timeout(request, attempt), chunked=length is None)
        if await self._push(exchange, connection, model):
            connection.finish()
        await connection.receive_head()
        return connection

    async def _push(self, exchange: Exchange, connection: Connection, model: str | None) -> bool:
        """Send the form as it arrives. Return False if the endpoint responds before it has received all of it."""
        form = self._form
        for piece in form.pieces(model):
            if not await connection.push(piece):
                return False
        while data := await exchange.read_body():
            form.feed(data)
            if form.size > MAX_STORED_BYTES:
                form.let_go()
            if not await connection.push(data):
                return False
        form.finish()
        return True


async def run(services: Services, kind: Kind, exchange: Exchange) -> None:
    """Serve a form, from its header block on. Raises Refusal."""
    api = FormApi(kind)
    request = InferenceRequest(services, exchange, api)
    check_loop(request)
    if exchange.line.query:
        request.target += api.query(request)
    parsed = await api.read_fields(request)
    refusal = services.admission.check_key(exchange)
    if refusal is not None:
        raise refusal
    request.parsed = parsed
    set_class(request)
    request.begin_chain(parsed)
    await serve(request, b"")

"""Forms with files: sound to transcribe, pictures to change. They are streamed on, not kept.

What came before the model was known, and a little more, is kept as long as it could be sent once more.
"""

from gateway.inference import Inference
from gateway.multipart import Form
from gateway.openai import Request
from gateway.outbox import Body
from gateway.roster import Route
from gateway.upstream import Connection

MAX_KEPT_BYTES = 1 << 20  # of a form, for another endpoint


class FormInference(Inference):
    """A request whose body is multipart/form-data."""

    async def run(self) -> None:
        self._check_way()
        exchange = self.exchange
        if exchange.query:
            self._add_query()
        form = self._form = Form(exchange.fields.get(b"content-type", b""))
        while form.model is None:
            data = await exchange.read_body()
            if data:
                form.feed(data)
                exchange.keep(form.size)
            else:
                form.finish()
        refusal = self.gateway.check_key(exchange)
        if refusal is not None:
            raise refusal
        self.request = Request(form.model, form.stream, False)
        await self._serve(b"")

    def _can_repeat(self) -> bool:
        return bool(self._form.held)

    async def _ask(self, route: Route, body: Body) -> Connection:
        form, exchange, endpoint = self._form, self.exchange, route.endpoint
        model = route.model.id if route.model.id != form.model else None
        length = None if exchange.length is None else exchange.length + form.growth(model)
        # A new one: a kept one may turn out to be stale when half of the form is gone.
        connection = self.connection = await endpoint.pool.connect()
        connection.begin(self._head(endpoint, b"", length), endpoint.facts.timeout_secs, chunked=length is None)
        if await self._pushed(connection, model):
            connection.finish()
        await connection.head()
        return connection

    async def _pushed(self, connection: Connection, model: str | None) -> bool:
        """Was all of it sent? False if the endpoint has answered before."""
        form, exchange = self._form, self.exchange
        for piece in form.pieces(model):
            if not await connection.push(piece):
                return False
        while data := await exchange.read_body():
            form.feed(data)
            if form.size > MAX_KEPT_BYTES:
                form.let_go()
            if not await connection.push(data):
                return False
        form.finish()
        return True

"""The gateway of one process: admits requests, answers what it can by itself, and hands on the rest."""

import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec

from gateway import anthropic, cancels, catalogue, kinds, playground, present, responses
from gateway.bounds import FORWARDED_BODY, QUEUE, QUEUE_OF_KEY, Bound, Hits
from gateway.config import Config
from gateway.cors import Cors
from gateway.errors import (
    HOST_NOT_ALLOWED,
    INVALID_API_KEY,
    INVALID_REQUEST,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    NOT_READY,
    ORIGIN_NOT_ALLOWED,
    PERMISSION_DENIED,
    REQUEST_TOO_LARGE,
    Refusal,
)
from gateway.exchange import JSON, Exchange
from gateway.forms import FormInference
from gateway.forward import Forwarder
from gateway.inference import Inference
from gateway.journal import Writer
from gateway.kinds import Kind
from gateway.messages import CountTokens, MessagesInference
from gateway.peer import UNKNOWN, Hosts, Peers, host_name
from gateway.present import Present
from gateway.queue import Queue
from gateway.record import REJECTED, RequestRecord, uuid7
from gateway.responses import ResponsesInference, StoredResponse
from gateway.retries import RetryBudget
from gateway.revocation import Revocation
from gateway.roster import Roster
from gateway.snapshot import ApiKey, Snapshot
from gateway.turns import Turns

if TYPE_CHECKING:
    from gateway.owners import Owners

log = logging.getLogger(__name__)

_INFERENCES: dict[str, type[Inference]] = {
    kinds.RESPONSES: ResponsesInference,
    kinds.COMPACTIONS: ResponsesInference,
    kinds.MESSAGES: MessagesInference,
    kinds.COUNT_TOKENS: CountTokens,
}

INFERENCE, READ_MODELS = "openai.inference", "openai.models.read"
MAX_FORWARDED_BODY = 8 << 20
TELL_SECONDS = 0.5  # between two tellings of what is here


@dataclass(frozen=True, slots=True)
class Route:
    """What a path takes, and what answers there."""

    methods: bytes  # as an Allow header has them
    permission: str
    answer: Callable[[Exchange], Coroutine[Any, Any, None]]
    streams: bool = False  # begins with the head, and reads the body by `Exchange.read_body`


@dataclass(frozen=True, slots=True)
class Pass:
    """What a request was let in with: another of the same head, method and path is let in again."""

    snapshot: Snapshot
    method: bytes
    path: bytes
    route: Route
    api_key: ApiKey | None
    expires_at: float | None  # seconds since 1970


class Gateway:
    """Everything the exchanges of this process share."""

    def __init__(self, config: Config, roster: Roster, forwarder: Forwarder) -> None:
        self.config = config
        self.roster = roster
        self.forwarder = forwarder
        self.journal: Writer | None = None
        self.stopping = False
        self.keeps_bodies = config.store_bodies != "none"
        self.running: set[Inference] = set()
        self.retries = RetryBudget()
        self._revocation: Revocation[Inference] = Revocation()
        self.bounds = Hits(roster.page, roster.worker)
        self._owners: Owners | None = None
        self.queue: Queue[Inference] = Queue(
            lambda waiter: waiter.asked.look_again(waiter.tried),
            lambda count: roster.page.set_waiting(roster.worker, count),
        )
        self._silence_looked_for = self._told_at = 0.0
        self._cancels = roster.page.cancels
        self.outbox = roster.outbox
        self.turns = Turns(self.outbox.loop)
        self.outbox.before = self._write_records
        self.cors = Cors(config.cors_origins) if config.cors_origins else None
        self._hosts = Hosts(config)
        self._peers = Peers(config.trusted_proxies, config.scheme)
        self._routes: dict[bytes, Route] = {
            kind.path.encode(): Route(b"POST", INFERENCE, self._inference(kind), streams=kind.multipart)
            for kind in kinds.KINDS
        }
        self._routes[b"/v1/models"] = Route(b"GET", READ_MODELS, self._list_models)
        self._model_route = Route(b"GET", READ_MODELS, self._get_model)
        self._playground = Route(b"POST", "", lambda exchange: playground.answer(self, exchange))

    # What the protocol calls

    def admit(self, exchange: Exchange, socket_ip: str | None) -> Refusal | None:
        """Is this request let in? Decided by its head alone, before any of its body is kept."""
        head = exchange.head
        passed = head.passed
        if (
            passed is not None
            and passed.snapshot is self.roster.snapshot
            and exchange.path == passed.path
            and exchange.method == passed.method
            and (passed.expires_at is None or passed.expires_at > time.time())
        ):
            exchange.cors = self.cors
            exchange.peer = head.peer or UNKNOWN
            exchange.route = passed.route
            exchange.api_key = passed.api_key
            return None
        exchange.peer = head.peer = self._peers.of(socket_ip, head.headers)
        host = head.fields.get(b"host")
        if host is None and exchange.version != "1.0":
            return Refusal(400, INVALID_REQUEST, "The Host header is missing.")
        if host is not None and not self._hosts.allow(host):
            return Refusal(400, HOST_NOT_ALLOWED, "This host name is not allowed; add it to ROUTERDASH_ALLOWED_HOSTS.")
        if exchange.path.startswith(b"/v1/"):
            return self._admit_client(exchange)
        if exchange.path == playground.PATH and exchange.method == b"POST":
            if (refusal := _encoded(exchange)) is not None:
                return refusal
            exchange.route = self._playground
        if exchange.length is not None and exchange.length > MAX_FORWARDED_BODY:
            message = f"The body has more than {MAX_FORWARDED_BODY >> 20} MiB."
            return Refusal(413, REQUEST_TOO_LARGE, message, bound=FORWARDED_BODY)
        return None

    def may_be_known(self, exchange: Exchange) -> bool:
        """Does a request for a page bear a cookie, which control looks at, or a key that is known?"""
        fields = exchange.fields
        if b"cookie" in fields:
            return True
        secret = fields.get(b"x-api-key") or bearer(fields.get(b"authorization"))
        return secret is not None and self.roster.key(secret) is not None

    def refuse(self, exchange: Exchange, refusal: Refusal, model: str = "") -> None:
        """Count the refusal, then tell it."""
        if refusal.bound is not None:
            self.bounds.hit(refusal.bound)
        if exchange.path.startswith(b"/v1/"):
            self.record(
                RequestRecord(
                    id=uuid7(),
                    completed_us=time.time_ns() // 1000,
                    kind="",
                    model=model,
                    outcome=REJECTED,
                    status=refusal.status,
                    duration_us=0,
                    api_key_id=exchange.api_key.id if exchange.api_key else None,
                    client_ip=exchange.peer.ip,
                    error=refusal.code,
                )
            )
        if exchange.started:  # by comments that kept it alive
            exchange.abort()
            return
        if exchange.path.startswith(b"/v1/messages"):
            body = anthropic.error_body(refusal.status, refusal.code, refusal.message)
        else:
            body = refusal.body()
        exchange.reply(refusal.status, (JSON, *refusal.headers), body)

    def answer(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """What answers a request that has arrived; what it raises is for `failed`. May raise Refusal at once."""
        route = exchange.route
        return self.forwarder.forward(exchange) if route is None else route.answer(exchange)

    def check_key(self, exchange: Exchange) -> Refusal | None:
        """Has the key of a request gone since its head came?"""
        key, route, passed = exchange.api_key, exchange.route, exchange.head.passed
        if key is None or route is None:
            return None
        # Keys of the present snapshot are as they were when the head came, but for their time.
        current = passed is not None and passed.api_key is key and passed.snapshot is self.roster.snapshot
        return None if current and not _expired(key) else self._admit_key(exchange, route)

    def failed(self, exchange: Exchange, error: Exception) -> None:
        """Tell the client that its request was refused, or that we have a fault."""
        if isinstance(error, Refusal):
            self.refuse(exchange, error)
            return
        log.error("%r failed", exchange, exc_info=error)
        if exchange.started:
            exchange.abort()
        else:
            exchange.reply(
                500,
                (JSON,),
                b'{"error":{"message":"RouterDash failed; its log says why.",'
                b'"type":"server_error","param":null,"code":"internal_error"}}',
            )

    # What answers use

    def record(self, record: RequestRecord) -> None:
        """Into the journal, before anything that is written from now on. Without one (no snapshot has ever been read)
        nothing can be counted yet.
        """
        if self.journal is not None:
            self.outbox.put(self.journal.put(record))

    def _write_records(self) -> None:
        if self._owners is not None and self._owners.pending:
            self._owners.flush()
        journal = self.journal
        if journal is None or not journal.pending:
            return
        before = journal.unrecorded
        journal.flush()
        if journal.unrecorded != before:
            self.roster.tell_unrecorded(journal.unrecorded)

    @property
    def owners(self) -> "Owners":
        """Whose stored responses are. Most gateways never need SQLite, which comes with it."""
        if self._owners is None:
            from gateway.owners import Owners

            self._owners = Owners(self.config.responses_dir, self.roster.worker, self.outbox.put)
        return self._owners

    def close(self) -> None:
        """At the end of the process: the files that it writes."""
        if self.journal is not None:
            self.journal.close()
        if self._owners is not None:
            self._owners.close()

    def refresh(self) -> None:
        """Take over a new snapshot if there is one; the journal follows the database it names."""
        self.roster.refresh()
        if self.roster.snapshot is None:
            return
        database_id = self.roster.snapshot.database_id
        if self.journal is None or self.journal.database_id != database_id:
            if self.journal is not None:
                self.journal.close()
            self.journal = Writer(
                self.config.journal_dir,
                database_id,
                max_bytes=self.config.journal_max_mb << 20,
                durable=bool(self.config.journal_fsync_secs),
            )
            self.journal.open()

    def look_around(self) -> None:
        """Many times a second: a new snapshot, what other workers do, who waits, and how the journal stands."""
        now = time.monotonic()
        self.refresh()
        self.roster.look_around()
        self.queue.look_around(now)
        if self.journal is not None:
            self.journal.check()
            self.roster.tell_unrecorded(self.journal.unrecorded)
        silence = self.config.keepalive_secs
        if silence and now - self._silence_looked_for >= silence:
            self._silence_looked_for = now
            for running in list(self.running):
                running.keep_alive()
        if now - self._told_at >= TELL_SECONDS and self.roster.page.watched_until > time.time():
            self._told_at = now
            self._tell_present()
        if self._cancels != self.roster.page.cancels:
            self._cancels = self.roster.page.cancels
            self._cancel()
        self._end_some(time.time())

    def _end_some(self, now: float) -> None:
        """Requests that a drain or the end of their API key allows no longer. `now`: seconds since 1970."""
        if drained := self.roster.drained(now):
            for running in list(self.running):
                if running.endpoint in drained:
                    running.end_early("the endpoint was drained")
        if self.config.require_api_key:
            for running, why in self._revocation.look(self.roster.snapshot, self.roster.keys, self.running, now):
                running.cancel(why)

    def _tell_present(self) -> None:
        """Somebody looks: tell what is here."""
        since = time.time() - time.monotonic()
        waiting = [it.asked.waiting(since, position) for position, it in enumerate(self.queue, 1)]
        running = [it.running(since) for it in self.running if it.endpoint is not None]
        found = Present(
            self.roster.worker,
            time.time(),
            tuple(waiting[: present.MOST]),
            tuple(sorted(running, key=lambda it: it.since)[: present.MOST]),
            len(waiting),
            len(running),
        )
        present.save(self.config.data_dir, found)

    def _cancel(self) -> None:
        """Operators want requests ended: those of them that are here."""
        wanted = {it.id for it in cancels.load(self.config.data_dir)}
        for running in [it for it in self.running if it.id in wanted]:
            log.info("request %s is cancelled by an operator", running.id)
            running.cancel()

    def full_queue(self, key: str) -> Bound | None:
        """What keeps one more request of a key, or of an address, from waiting; None if nothing does."""
        config, snapshot = self.config, self.roster.snapshot
        waiting = self.roster.waiting()
        if waiting >= config.queue_max:
            return QUEUE
        alone = config.require_api_key and snapshot is not None and len(snapshot.api_keys) == 1
        if alone or self.queue.has_place(key, waiting, config.queue_max, config.workers):
            return None
        return QUEUE_OF_KEY

    def queue_moves(self) -> None:
        """A request has left its endpoint while others wait."""
        self.queue.nudge(self.outbox.loop)

    # Admission

    def _admit_client(self, exchange: Exchange) -> Refusal | None:
        if self.cors is not None:
            exchange.cors = self.cors
            if self.cors.is_preflight(exchange):
                exchange.route = Route(b"OPTIONS", "", self.cors.answer_preflight)
                return None
        if self.roster.snapshot is None:
            self.refresh()
        if self.roster.snapshot is None:
            return Refusal(503, NOT_READY, "RouterDash is starting.", headers=((b"retry-after", b"2"),))
        route = self._route(exchange)
        if route is None:
            path = exchange.path.decode("latin-1")
            return Refusal(404, NOT_FOUND, f"There is no {path} here; the API offers {', '.join(kinds.BY_PATH)}.")
        refusal = self._admit_key(exchange, route)
        if refusal is not None:
            return refusal
        methods = route.methods
        if exchange.method != methods and not _takes(methods, exchange.method):
            return Refusal(
                405, METHOD_NOT_ALLOWED, f"This path takes {methods.decode()} only.", headers=((b"allow", methods),)
            )
        if (refusal := _encoded(exchange)) is not None:
            return refusal
        exchange.route = route
        if exchange.version != "1.0":
            key = exchange.api_key
            exchange.head.passed = Pass(
                self.roster.snapshot,
                exchange.method,
                exchange.path,
                route,
                key,
                None if key is None else key.expires_at,
            )
        return None

    def _route(self, exchange: Exchange) -> Route | None:
        route = self._routes.get(exchange.path)
        if route is None and exchange.path.startswith(b"/v1/responses/"):
            methods = responses.check_path(exchange.path)
            return None if methods is None else Route(methods, INFERENCE, self._stored)
        if route is None and exchange.path.startswith(b"/v1/models/") and len(exchange.path) > 11:
            return self._model_route
        return route

    def _admit_key(self, exchange: Exchange, route: Route) -> Refusal | None:
        secret = exchange.fields.get(b"x-api-key") or bearer(exchange.fields.get(b"authorization"))
        key = self.roster.key(secret) if secret else None
        if not self.config.require_api_key:
            exchange.api_key = key
            return self._admit_stranger(exchange, route)
        if secret is None:
            return Refusal(
                401,
                INVALID_API_KEY,
                "An API key is needed: send it as `Authorization: Bearer sk_…` or `X-API-Key: sk_…`.",
            )
        if key is None:
            return Refusal(401, INVALID_API_KEY, "This API key is not known.")
        if _expired(key):
            return Refusal(401, INVALID_API_KEY, "This API key has expired.")
        exchange.api_key = key
        if route.permission not in key.permissions:
            return Refusal(403, PERMISSION_DENIED, f"This API key lacks the permission {route.permission}.")
        return None

    def _admit_stranger(self, exchange: Exchange, route: Route) -> Refusal | None:
        """Without keys, a page of another site must not get its visitor's browser to ask us."""
        origin = exchange.fields.get(b"origin")
        if origin is not None and not self._is_welcome(origin, exchange.fields.get(b"host", b"")):
            return Refusal(403, ORIGIN_NOT_ALLOWED, "Pages of other origins may not use this API without a key.")
        kind = exchange.fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
        wanted = b"multipart/form-data" if route.streams else b"application/json"
        if exchange.method == b"POST" and kind != wanted:
            return Refusal(415, INVALID_REQUEST, f"Send the body as {wanted.decode()}.")
        return None

    def _is_welcome(self, origin: bytes, host: bytes) -> bool:
        if self.cors is not None and self.cors.allows(origin):
            return True
        return (_host_of(origin) or "null") == host_name(host.decode("latin-1"))

    # Answers

    def _inference(self, kind: Kind) -> Callable[[Exchange], Coroutine[Any, Any, None]]:
        make = FormInference if kind.multipart else _INFERENCES.get(kind.name, Inference)
        return lambda exchange: make(self, exchange, kind).run()

    async def _stored(self, exchange: Exchange) -> None:
        await StoredResponse(self, exchange, kinds.STORED_RESPONSES).run()

    async def _list_models(self, exchange: Exchange) -> None:
        exchange.reply(200, (JSON,), msgspec.json.encode(catalogue.list_models(self.roster)))

    async def _get_model(self, exchange: Exchange) -> None:
        name = unquote_to_bytes(exchange.path[len(b"/v1/models/") :]).decode("utf-8", "replace")
        exchange.reply(200, (JSON,), msgspec.json.encode(catalogue.get_model(self.roster, name)))


def _takes(methods: bytes, method: bytes) -> bool:
    allowed = methods.split(b", ")
    return method in allowed or (method == b"HEAD" and b"GET" in allowed)


def _encoded(exchange: Exchange) -> Refusal | None:
    """The body of a request is read as it is: a compressed one would be taken for broken JSON."""
    if b"content-encoding" not in exchange.fields:
        return None
    codings = b",".join(value for name, value in exchange.head.headers if name == b"content-encoding")
    if all(coding.strip().lower() in (b"", b"identity") for coding in codings.split(b",")):
        return None
    message = "The body has a Content-Encoding, which is not supported: send it uncompressed, without that header."
    return Refusal(415, INVALID_REQUEST, message)


def _expired(key: ApiKey | None) -> bool:
    return key is not None and key.expires_at is not None and key.expires_at <= time.time()


def _host_of(origin: bytes) -> str | None:
    try:
        return urlsplit(origin.decode("latin-1")).hostname
    except ValueError:  # brackets that hold no address
        return None


def bearer(authorization: bytes | None) -> bytes | None:
    """The key in an Authorization header."""
    if authorization is None or authorization[:7].lower() != b"bearer ":
        return None
    return authorization[7:].strip() or None

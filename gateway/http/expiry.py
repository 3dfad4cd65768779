"""Check of one client's connection against its deadlines, twice a second."""

from gateway.base import bounds
from gateway.http.deadlines import Deadlines
from gateway.http.http_connection import HttpConnection, plain_response
from gateway.http.paced_reading import BUFFER_SPACE, PACE
from gateway.http.request_bounds import SMALL_BODY_BYTES
from gateway.http.reservations import NO_SHARE


def expire(connection: HttpConnection, now: float, *, stopping: bool) -> None:
    """Close the connection if everything waits for its client, for too long: an idle one, a slow client that sends,
    and a slow client that does not read. `now` is time.monotonic(); `stopping`: the process drains.
    """
    if connection.reservations.share is NO_SHARE:  # it lingers
        return
    if not _client_reads(connection, now):
        connection.transport.abort()
        return
    running, deadlines = connection.running, connection.deadlines
    if running is not None and (running.received or (running.started and not running.reader)):
        return
    waiting = connection.reservations.waiting
    if waiting is not None and stopping:
        waiting.until = 0.0  # it is refused at once
    if deadlines.paused_since or connection.reading.reasons & (BUFFER_SPACE | PACE):
        return  # the client is not slow
    if connection.requests.in_head or running is not None:
        _check_request(connection, deadlines, now, stopping=stopping)
    elif deadlines.is_quiet(now, receiving=False, stopping=stopping):
        # In a busy process, a request may have arrived that was not read yet. It is read before this callback.
        connection.writes.loop.call_soon(_close_if_quiet, connection, deadlines.quiet_since)


def _check_request(connection: HttpConnection, deadlines: Deadlines, now: float, *, stopping: bool) -> None:
    """Close the connection if a request is received too slowly."""
    running = connection.running
    if connection.requests.in_head or running is None:
        exceeded = deadlines.exceeded_by_header_block(now)
    else:
        exceeded = deadlines.exceeded_by_body(running.body_bytes, now, streams=running.reader is not None)
    if exceeded is not None:
        connection.gateway.bound_hits.hit(exceeded)
    elif not deadlines.is_quiet(now, receiving=True, stopping=stopping):
        return
    if running is None or not running.started:
        text = b"The rest of the request did not arrive in time.\n"
        connection.writes.write(connection.transport, plain_response(b"408 Request Timeout", text))
    connection.close()


def _client_reads(connection: HttpConnection, now: float) -> bool:
    """Return False if the client has hardly read anything for too long, or if its waiting bytes have no room.
    Such a connection must be aborted, because closing it would wait for the client.
    """
    unsent = connection.transport.get_write_buffer_size()
    if connection.deadlines.is_stuck(unsent, now):
        connection.gateway.bound_hits.hit(bounds.SLOW_READER)
        return False
    if unsent > SMALL_BODY_BYTES or connection.reservations.has_unsent:
        full = connection.reservations.charge_unsent(unsent, connection.running)
        if full is not None:
            connection.gateway.bound_hits.hit(full)
            return False
    return True


def _close_if_quiet(connection: HttpConnection, quiet_since: float) -> None:
    if connection.deadlines.quiet_since == quiet_since:
        connection.close()

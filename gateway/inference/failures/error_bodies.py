"""The bodies of endpoints' errors. One may be as long and as slow as any response, but its beginning says enough."""

from gateway.inference.attempt import Attempt
from gateway.inference.request import InferenceRequest
from gateway.upstream.connection import Connection

MAX_ERROR_BYTES = 256 << 10  # of an endpoint's error; of a longer one, the client receives the beginning


async def read_error_body(request: InferenceRequest, attempt: Attempt, connection: Connection) -> bytes:
    """Return the body of a response with a status from 300 on, which the buffers of the client count.

    Of a longer one than MAX_ERROR_BYTES, the beginning is read, and the connection closed. It is read once: `attempt`
    stores it. Raises UpstreamError, and Refusal (503) if the buffers are full.
    """
    if attempt.error_body is None:
        body = await connection.read_all(request.exchange.reserve_response(), MAX_ERROR_BYTES)
        attempt.error_body = body[: MAX_ERROR_BYTES + 1]
    return attempt.error_body

"""Answers that go on long after their view has returned: live events, downloads."""

from django.http import StreamingHttpResponse


class LastingResponse(StreamingHttpResponse):
    """Sent by routerdash.asgi once Django has finished with its request: until then, a request holds a thread.

    Its content is an asynchronous iterator that needs neither that thread nor a database connection of its own.
    """

"""Django for control's Unix socket. The gateway in front says who the client is, in two headers of its own."""

import os
from typing import Any

from django.core.asgi import get_asgi_application

from gateway.forward import CLIENT_IP, CLIENT_SCHEME

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "routerdash.settings")

_django = get_asgi_application()


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Takes the client's address and scheme from the gateway, the only one who can reach this socket."""
    headers = dict(scope["headers"])
    if (client := headers.get(CLIENT_IP)) is not None:
        scope["client"] = (client.decode("latin-1"), 0)
    scope["scheme"] = headers.get(CLIENT_SCHEME, b"http").decode("latin-1")
    await _django(scope, receive, send)

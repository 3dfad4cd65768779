"""HEALTHCHECK of a container: `python -m routerdash.healthcheck` exits with 0 if /health returns 200, else with 1."""

import http.client
import os
import ssl
import sys
from contextlib import closing

from gateway.base.config import Config, ConfigError, load

SECONDS = 4.0


def main() -> int:
    """Request /health at the port of the settings, on a loopback address. Write failures to standard error as one line.

    Return the exit code.
    """
    try:
        config = load(os.environ)
        with closing(_connection(config)) as connection:
            connection.request("GET", "/health", headers={"Host": "localhost"})
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ConfigError) as error:
        print(f"routerdash: /health does not answer: {error}", file=sys.stderr)  # noqa: T201
        return 1
    if status != 200:
        print(f"routerdash: /health answers {status}", file=sys.stderr)  # noqa: T201
    return int(status != 200)


def _connection(config: Config) -> http.client.HTTPConnection:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104
    if config.scheme == "http":
        return http.client.HTTPConnection(host, config.port, timeout=SECONDS)
    # The certificate is for another name than the loopback address. No secret is sent, and no response data is used.
    context = ssl._create_unverified_context()  # noqa: S323
    return http.client.HTTPSConnection(host, config.port, timeout=SECONDS, context=context)


if __name__ == "__main__":
    sys.exit(main())

"""A real nginx as the endpoint. It decodes and normalises paths as many front ends of inference servers do."""

import json
import os
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from tests import programs
from tests.router import until

CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    log_format seen escape=json '{{"method":"$request_method","uri":"$uri","query":"$args","raw":"$request_uri",'
        '"key":"$http_authorization"}}';
    access_log {folder}/seen.log seen;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000;
    large_client_header_buffers 8 64k;
    server {{
        listen 127.0.0.1:{port} backlog=512;
        default_type application/json;
        location / {{
            return 200 '{{"id":"resp_nginx","object":"response","model":"m","output":[],"data":[]}}';
        }}
        location /internal/ {{
            return 200 '{{"internal":"$request_method $uri $http_authorization"}}';
        }}
    }}
}}
"""


class Nginx:
    """An nginx that runs until `stop`. `seen()` returns the requests as nginx parsed them."""

    def __init__(self, folder: Path) -> None:
        program = programs.find("nginx") or "nginx"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "seen.log"
        config = folder / "nginx.conf"
        config.write_text(CONFIG.format(folder=folder, port=self.port))
        self._process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(config), "-e", str(folder / "start.log")]
        )
        self._marks = 0
        until(self._listens)
        self.seen()

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError("nginx exited at once; its messages are above")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def seen(self) -> list[dict[str, Any]]:
        """Every request since the previous call. nginx logs a request before it reads the next, so a mark ends them."""
        self._marks += 1
        mark = f"/mark-{self._marks}"
        urllib.request.urlopen(self.url + mark, timeout=20).close()
        requests: list[dict[str, Any]] = until(lambda: self._read(mark))
        os.truncate(self._log, 0)
        return requests[:-1]

    def _read(self, mark: str) -> list[dict[str, Any]] | None:
        lines = self._log.read_text(errors="replace").splitlines()
        requests = [json.loads(line) for line in lines]
        return requests if requests and requests[-1]["uri"] == mark else None

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)

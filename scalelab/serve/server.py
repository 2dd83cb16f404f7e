"""HTTP server of the explorer, for this machine only.

It answers requests for 127.0.0.1 that know its token: the page, and fits of tables sent to it. It reads no file on
request, so no path can lead anywhere.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from scalelab.fit.data import COLUMNS
from scalelab.serve.refit import LIMIT_S, MAX_BYTES, refit

HOST = "127.0.0.1"
_DRAINED = 4 * MAX_BYTES  # of a body that is too large, so that the client reads the answer
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",  # besides the policy in the page
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class ExplorerServer(ThreadingHTTPServer):
    """Server of one explorer page.

    Attributes:
        token: Secret part of the address.
        url: Address of the page.
    """

    daemon_threads = True

    def __init__(self, page: str, port: int = 0, limit_s: float = LIMIT_S) -> None:
        """Listen on `port` of 127.0.0.1 (0: any free one). Raises `OSError` if it is in use."""
        super().__init__((HOST, port), _Handler)
        self.page, self.limit_s = page.encode(), limit_s
        self.token = secrets.token_urlsafe(24)
        self.url = f"http://{HOST}:{self.server_port}/{self.token}/"
        self.fitting = threading.Lock()  # one fit at a time

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that a browser closes early."""


class _Handler(BaseHTTPRequestHandler):
    server: ExplorerServer  # type: ignore[assignment]  # narrower than in the base class
    server_version, sys_version = "scalelab", ""
    timeout = 30  # seconds without data from a client

    def do_GET(self) -> None:
        path = self._allowed_path()
        if path == "":
            self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        elif path is not None:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        path = self._allowed_path()
        if path is None:
            return
        if path != "fit":
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "give the length of the table")
            return
        if int(length) > MAX_BYTES:
            self._drain(int(length))
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the table exceeds {MAX_BYTES // 2**20} MiB")
            return
        self._send_json(self._fit(self.rfile.read(int(length))))

    def _fit(self, table: bytes) -> Mapping[str, Any]:
        given = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query, max_num_fields=20).items()}
        fields = {"loss": "loss", **COLUMNS}
        columns = {fields[name]: column for name, column in given.items() if name in fields}
        if not self.server.fitting.acquire(blocking=False):
            return {"error": "another fit is running; wait until it has ended"}
        try:
            name, law = given.get("name", "table.csv"), given.get("law", "parallel")
            return refit(table, name, law, columns, self.server.limit_s)
        finally:
            self.server.fitting.release()

    def _allowed_path(self) -> str | None:
        """Return the path below the token; None, after an answer, for a request that is not allowed."""
        port = self.server.server_port
        own = [f"{name}:{port}" for name in (HOST, "localhost")]
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in own or (origin is not None and origin not in [f"http://{o}" for o in own]):
            self._refuse(HTTPStatus.FORBIDDEN, "this server answers its own page only")  # DNS rebinding, other sites
            return None
        _, token, *rest = [*urlsplit(self.path).path.split("/", 2), ""]
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "wrong token: use the address that scalelab explore printed")
            return None
        return rest[0]

    def _drain(self, length: int) -> None:
        left = min(length, _DRAINED)
        while left > 0 and (piece := self.rfile.read(min(left, 2**16))):
            left -= len(piece)

    def _send_json(self, content: Mapping[str, Any]) -> None:
        self._send(HTTPStatus.OK, json.dumps(content).encode(), "application/json")

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self._send(status, f"{reason}\n".encode(), "text/plain; charset=utf-8")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name in the base class
        """Log nothing: the address has the token."""

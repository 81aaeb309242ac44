"""A server that refuses like the Hugging Face hub."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OWNER = "replaylab-tests"
REFUSALS = {
    "403-GatedRepo": "licence", "401-GatedRepo": "licence", "404-RepoNotFound": "no such model",
    "500-Broken": "cannot be reached",
}  # fmt: skip
"""Names of models of OWNER, each the status and the error that the hub answers with; and a word of the message due."""


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code, kind = self.path.split(f"{OWNER}/")[1].split("/")[0].split("-")
        self.send_response(int(code))
        self.send_header("X-Error-Code", kind)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # named by the base class

    def log_message(self, *_: Any) -> None:
        """Nothing on the screen."""


@contextmanager
def refusing_hub() -> Iterator[str]:
    """Its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()

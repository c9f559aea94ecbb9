"""A Hub on this machine: as much of its protocol as its own library asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "1f" * 20


class Hub:
    """``files`` by repository and name. ``token``: what private repositories ask for."""

    def __init__(self, files: Mapping[str, Mapping[str, bytes]], token: str = "") -> None:
        self.files = files
        self.token = token
        self.asked: list[str] = []
        self.address = ""

    @contextmanager
    def served(self) -> Iterator[Hub]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub._answer(self, body=True)

            def do_HEAD(self) -> None:
                hub._answer(self, body=False)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.partition("?")[0]
        self.asked.append(f"{request.command} {path}")
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self._send(request, 401, {"X-Error-Code": "RepoNotFound"}, b"", body)
        parts = path.strip("/").split("/")
        if parts[:2] in (["api", "models"], ["api", "datasets"]):
            name, rest = "/".join(parts[2:4]), parts[4:]
            if name not in self.files:
                return self._send(request, 404, {"X-Error-Code": "RepoNotFound"}, b"", body)
            if rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
                return self._send(request, 404, {"X-Error-Code": "RevisionNotFound"}, b"", body)
            files = self.files[name]
            siblings = [{"rfilename": one, "size": len(data)} for one, data in files.items()]
            answer = {"id": name, "sha": COMMIT, "siblings": siblings, "tags": []}
            return self._send(request, 200, {}, json.dumps(answer).encode(), body)
        if parts[0] == "datasets":
            parts = parts[1:]
        name, file = "/".join(parts[:2]), "/".join(parts[4:])
        data = self.files.get(name, {}).get(file)
        if data is None:
            return self._send(request, 404, {"X-Error-Code": "EntryNotFound"}, b"", body)
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        return self._send(request, 200, headers, data, body)

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str],
        data: bytes, body: bool,
    ) -> None:  # fmt: skip
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if body:
            request.wfile.write(data)

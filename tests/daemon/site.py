"""A web site on this machine that can do to a download what the web does."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PIECE = 1 << 18  # bytes that a slow page sends at once
SLOW = 0.02  # seconds between two


@dataclass
class Page:
    """What is at a path. Each entry of ``faults`` and ``cuts`` is for one answer, the first ones:
    a status with headers, and after how many bytes the connection breaks."""

    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    ranges: bool = True
    tagged: bool = True
    sized: bool = True
    location: str = ""
    token: str = ""  # without it: 401
    faults: list[tuple[int, Mapping[str, str]]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    held: threading.Event | None = None  # comes slowly to the middle, and waits there for this

    @property
    def tag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"'


class Site:
    """``pages`` by path. ``asked``: path, headers of each question, in order."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, Message]] = []
        self.address = ""

    @contextmanager
    def served(self, certificate: Path | None = None) -> Iterator[Site]:
        """Over http, or with a certificate of its own making over https."""
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.address = f"http://127.0.0.1:{server.server_address[1]}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            self.address = f"https://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            for page in self.pages.values():
                if page.held is not None:
                    page.held.set()
            server.shutdown()
            server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.path, request.headers))
        page = self.pages.get(request.path.partition("?")[0])
        if page is None:
            return self._short(request, 404, {})
        if page.faults:
            return self._short(request, *page.faults.pop(0))
        if page.token and request.headers.get("Authorization") != f"Bearer {page.token}":
            return self._short(request, 401, {})
        if page.location:
            return self._short(request, 302, {**page.headers, "Location": page.location})
        begin = self._begin(request, page)
        request.send_response(206 if begin else 200)
        for name, value in page.headers.items():
            request.send_header(name, value)
        if page.tagged:
            request.send_header("ETag", page.tag)
        if page.sized:
            request.send_header("Content-Length", str(len(page.data) - begin))
        else:
            request.send_header("Connection", "close")
            request.close_connection = True
        if begin:
            size = len(page.data)
            request.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        request.end_headers()
        self._send(request, page, begin)
        return None

    @staticmethod
    def _begin(request: BaseHTTPRequestHandler, page: Page) -> int:
        asked = request.headers.get("Range", "")
        same = request.headers.get("If-Range", page.tag) == page.tag
        return int(asked[len("bytes=") : -1]) if asked and same and page.ranges else 0

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, page: Page, begin: int) -> None:
        end = page.cuts.pop(0) if page.cuts else len(page.data)
        if page.held is not None:
            middle = (begin + end) // 2
            while begin < middle and not page.held.wait(SLOW):
                request.wfile.write(page.data[begin : begin + PIECE])
                begin += PIECE
            page.held.wait()
        request.wfile.write(page.data[begin:end])
        if end < len(page.data):
            request.close_connection = True

    @staticmethod
    def _short(request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str]) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

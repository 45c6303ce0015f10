"""A web server on this machine that answers whatever a test says, and answers by DICOMweb."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.dicom_files import NAME

DICOM_JSON = "application/dicom+json"
MULTIPART = 'multipart/related; type="application/dicom"; boundary=xx'
SECRET = f"{NAME} of the answer"  # no word of an answer may be shown


@dataclass
class Answer:
    """What the server sends: a body of bytes, or of pieces without a length."""

    body: Any = b""
    kind: str | None = DICOM_JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None  # instead of all of it, before the connection ends


Site = Callable[[str, str], Answer]


@contextmanager
def site(answers: Site, context: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A web server on this machine alone; gives its address and what it was asked, by method and path."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.command, self.path))
            answer = answers(self.command, self.path)
            self.close_connection = True
            try:
                if answer.raw is not None:
                    self.wfile.write(answer.raw)
                    return
                self.send_response(answer.status)
                whole = isinstance(answer.body, bytes)
                headers = {"Connection": "close"} | ({"Content-Length": str(len(answer.body))} if whole else {})
                headers |= {} if answer.kind is None else {"Content-Type": answer.kind}
                for name, value in (headers | dict(answer.headers)).items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in [answer.body] if whole else answer.body:
                    self.wfile.write(piece)
            except OSError:
                pass  # the client has had enough

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http{'' if context is None else 's'}://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def always(answer: Answer) -> Site:
    return lambda method, path: answer


def studies_of(*uids: Any, **more: Any) -> bytes:
    return json.dumps([{"0020000D": {"vr": "UI", "Value": [uid]}, **more} for uid in uids]).encode()


def series_of(uid: Any, images: Any = 1) -> bytes:
    return json.dumps([{"0020000E": {"Value": [uid]}, "00201209": {"Value": [images]}}]).encode()


def endless(piece: bytes, count: int = 1 << 14) -> Iterator[bytes]:
    for _ in range(count):  # as many as nobody should take
        yield piece


PAGE = f"<!DOCTYPE html><title>{SECRET}</title>".encode()

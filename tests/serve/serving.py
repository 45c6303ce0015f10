"""The page's server in a thread, and a browser's side of the conversation, with whatever a browser would not say."""

from __future__ import annotations

import http.client
import io
import json
import random
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from monai_rd.serve.limits import Limits
from tests.waiting import wait_for

if TYPE_CHECKING:
    from monai_rd.inference import Predictor


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Browser:
    """One session.

    Attributes:
        port: of the server.
        host: what the browser thinks that the server is named.
        cookie: what it has got.
        made: addresses of its uploads.
    """

    port: int
    host: str = "127.0.0.1"
    cookie: str = ""
    made: list[str] = field(default_factory=list)

    def ask(self, method: str, address: str, body: Any = None, **headers: str) -> Reply:
        """A request as the page's script sends it; `headers` (with _ for -) are added, or replace its own.

        The status is 0 if the server has hung up before all was sent.
        """
        named = f"{self.host}:{self.port}"
        usual = {"Host": named, "Accept": "text/html"} | ({} if method == "GET" else {"Origin": f"http://{named}"})
        usual |= {"Cookie": self.cookie} if self.cookie else {}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, address, body, {**usual, **given}, encode_chunked=not isinstance(body, bytes))
            got = connection.getresponse()
            reply = Reply(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
        except (BrokenPipeError, ConnectionResetError):
            return Reply(0, {}, b"")
        finally:
            connection.close()
        if "set-cookie" in reply.headers:
            self.cookie = reply.headers["set-cookie"].partition(";")[0]
        return reply

    def get(self, address: str, status: int = 200) -> Reply:
        reply = self.ask("GET", address)
        assert reply.status == status, reply.text
        return reply

    def new(self) -> str:
        """Begin an upload; return its address."""
        if not self.cookie:
            self.get("/")
        reply = self.ask("POST", "/jobs")
        assert reply.status == 200, reply.text
        self.made.append("/jobs/" + json.loads(reply.text)["id"])
        return self.made[-1]

    def put(self, job: str, number: int, name: str, content: Any, **headers: str) -> Reply:
        return self.ask("PUT", f"{job}/files/{number}", content, X_Name=quote(name), **headers)

    def send(self, files: Mapping[str, bytes]) -> str:
        """Send files, have them scored, and wait for answers and pictures; return the upload's address."""
        job = self.new()
        for number, (name, content) in enumerate(files.items(), start=1):
            reply = self.put(job, number, name, content)
            assert reply.status == 204, reply.text
        reply = self.ask("POST", f"{job}/start")
        assert reply.status == 204, reply.text
        wait_for(lambda: self.state(job)["state"] in ("done", "failed"), seconds=120)
        page = self.get(job).text
        waits = re.search(r'data-waits="(\d+)"', page)
        wait_for(lambda: waits is None or len(self.state(job)["drawn"]) == int(waits[1]), seconds=120)
        return job

    def state(self, job: str) -> dict[str, Any]:
        return json.loads(self.get(f"{job}/state").text)


@contextmanager
def serving(
    predictor: Predictor, folder: Path, host: str = "127.0.0.1", token: str | None = None, **limits: Any
) -> Iterator[Browser]:
    """The server on a free port, with a folder for its files; a browser that has seen nothing yet."""
    pytest.importorskip("uvicorn", reason='the page needs pip install "monai_rd[serve]"')
    from monai_rd.serve.app import web_page
    from monai_rd.serve.server import listening, web_server

    folder.mkdir()
    listener = listening("127.0.0.1", 0)
    port = listener.getsockname()[1]
    known = Limits(**{"free": 0, **limits})
    server = web_server(web_page(predictor, folder, folder.parent / "report.html", host, port, token, known))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield Browser(port)
    finally:
        server.should_exit = True
        thread.join()
    assert not folder.exists()


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def zipped(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return packed.getvalue()


def noise(size: int) -> bytes:
    return random.Random(0).randbytes(size)

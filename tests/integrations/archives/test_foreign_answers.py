"""Whatever a web server answers, an archive by DICOMweb raises an error of ours that tells nothing of the answer."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("requests", reason="the extra 'dicom' is not installed")

from monai_rd.integrations.archives import dicomweb
from monai_rd.integrations.archives.archive import Query
from monai_rd.integrations.archives.archive_endpoints import ArchiveSource, State
from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.archives.failures import ArchiveError, Failure
from tests.dicom_files import NAME, make_series

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


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test reaches."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    monkeypatch.setattr(dicomweb, "_LARGEST_JSON", 1 << 20)
    monkeypatch.setattr(dicomweb, "_LARGEST_SERIES", 1 << 20)
    monkeypatch.setattr(dicomweb, "_TIMEOUT", (2.0, 1.0))


PAGE = f"<!DOCTYPE html><title>{SECRET}</title>".encode()
SEARCHED: dict[str, tuple[Answer, str]] = {
    "a login page": (Answer(PAGE, "text/html; charset=utf-8"), "a web page came"),
    "a page that calls itself JSON": (Answer(PAGE, "application/json"), "a web page or XML came"),
    "XML": (Answer(f"<?xml version='1.0'?><a>{SECRET}</a>".encode(), "application/dicom+xml"), "XML came"),
    "nothing": (Answer(b""), "an empty answer came"),
    "blanks": (Answer(b" \r\n"), "an empty answer came"),
    "no JSON": (Answer(SECRET.encode(), "text/plain"), "something else"),
    "half of a JSON": (Answer(studies_of("1.2")[:-3]), "no DICOM JSON"),
    "a list of words": (Answer(b'["a", "b"]', "application/json"), "JSON that is no DICOM JSON"),
    "a number": (Answer(b"17"), "no DICOM JSON"),
    "null": (Answer(b"null"), "no DICOM JSON"),
    "objects of another kind": (Answer(b'[{"ID": "a", "Type": "Study"}]'), "no DICOM JSON"),
    "attributes of another kind": (Answer(b'[{"0020000D": "1.2.3"}]'), "no DICOM JSON"),
    "values of another kind": (Answer(b'[{"0020000D": {"Value": {"a": 1}}}]'), "no DICOM JSON"),
    "a UID that is a number": (Answer(studies_of(17)), "no DICOM JSON"),
    "a UID that is a list": (Answer(studies_of([1, 2])), "no DICOM JSON"),
    "too deep a JSON": (Answer(b"[" * 200_000), "no DICOM JSON"),
    "no text": (Answer(b"\xff\xfe\x00\x80"), "no DICOM JSON"),
    "too long": (Answer(endless(b" " * 1024)), "more than 1 MB"),
    "a bomb": (Answer(gzip.compress(b" " * (64 << 20)), headers={"Content-Encoding": "gzip"}), "more than 1 MB"),
    "no gzip": (Answer(b"[]", headers={"Content-Encoding": "gzip"}), "a damaged answer"),
    "a redirect elsewhere": (
        Answer(status=302, headers={"Location": f"https://login.example.org/{SECRET}".replace(" ", "")}),
        "it sends us to https://login.example.org: ",
    ),
    "a redirect that is none": (Answer(status=301, headers={"Location": "http://[x"}), "is its address right"),
    "a redirect to a file": (Answer(status=301, headers={"Location": "file:///etc/passwd"}), "another place"),
    "a redirect without a place": (Answer(status=302), "HTTP 302"),
    "an endless redirect": (
        Answer(endless(b"x" * 1024), status=302, headers={"Location": "ftp://x/y"}),
        "another place",
    ),
    "a long line of headers": (Answer(raw=b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20)), "no connection"),
    "too many headers": (Answer(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000), "no connection"),
    "no HTTP": (Answer(raw=b"SSH-2.0-OpenSSH\r\n"), "no connection"),
    "no word": (Answer(raw=b""), "no connection"),
    "cut off": (Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[]"), "connection broke"),
    "cut chunks": (Answer(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n99\r\n[]"), "connection broke"),
    "a status that is none": (Answer(b"[]", status=777), "HTTP 777"),
    **{f"HTTP {status}": (Answer(PAGE, "text/html", status), f"HTTP {status}") for status in (400, 401, 403, 404, 500)},
}


@pytest.mark.parametrize("case", SEARCHED)
def test_an_answer_to_a_search_that_is_none_is_told_in_our_words(case: str) -> None:
    answer, told = SEARCHED[case]
    with site(always(answer)) as (url, _), pytest.raises(ArchiveError) as raised:
        open_archive(url).studies(Query("CT"))
    assert told in str(raised.value)
    assert not any(word in str(raised.value) for word in (NAME, "Secretname", "/etc"))


def test_an_archive_without_matches_and_one_without_the_word_of_a_list_are_understood() -> None:
    for answer, expected in ((Answer(status=204, kind=None), []), (Answer(studies_of("1.2")[1:-1]), ["1.2"])):
        with site(always(answer)) as (url, _):
            assert open_archive(url).studies(Query("CT")) == expected


def test_redirects_within_a_host_are_followed_and_end() -> None:
    def once(method: str, path: str) -> Answer:
        if path.startswith("/old"):
            return Answer(status=301, headers={"Location": path.replace("/old", "/new")})
        return Answer(studies_of("1.2") if path.startswith("/new/studies?Modal") else b"", status=200)

    with site(once) as (url, _):
        assert open_archive(f"{url}/old").studies(Query("CT")) == ["1.2"]

    def forever(method: str, path: str) -> Answer:
        return Answer(status=302, headers={"Location": f"{path}x"})

    with site(forever) as (url, _), pytest.raises(ArchiveError, match="round in circles"):
        open_archive(url).studies(Query("CT"))


@pytest.mark.parametrize("place", ["/dicom-web", "/dicomweb", "/dcm4chee-arc/aets/DCM4CHEE/rs"])
@pytest.mark.parametrize(
    "at_root",
    [
        Answer(b'["a"]', "application/json"),
        Answer(b"[]", "application/json"),
        Answer(PAGE, "text/html"),
        Answer(status=404),
    ],
)
def test_where_something_else_answers_the_address_of_dicomweb_is_named(place: str, at_root: Answer) -> None:
    def answers(method: str, path: str) -> Answer:
        return Answer(b"[]") if path.startswith(f"{place}/studies") else at_root

    with site(answers) as (url, asked):
        for given in (url, f"{url}/", f"{url}/ui"):
            with pytest.raises(ArchiveError, match=f"DICOMweb answers at {url}{place}") as raised:
                open_archive(given).studies(Query("CT"))
            assert not raised.value.kind.transient
        assert open_archive(url + place).studies(Query("CT")) == []
    assert {method for method, _ in asked} == {"GET"}


def part(body: bytes, kind: bytes = b"application/dicom") -> bytes:
    return b"\r\n--xx\r\nContent-Type: " + kind + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Three images of the study and series "1.2" and "1.2.3"."""
    folder = tmp_path_factory.mktemp("images")

    def named(k: int, ds: Any) -> None:
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2", "1.2.3"

    make_series(folder, slices=3, change=named)
    return [file.read_bytes() for file in sorted(folder.iterdir())]


def fetched(tmp_path: Path, answer: Answer, study: str = "1.2", series: str = "1.2.3") -> int:
    with site(always(answer)) as (url, _):
        return open_archive(url).fetch(study, series, tmp_path)


def test_images_are_written_as_they_came(images: list[bytes], tmp_path: Path) -> None:
    body = b"a preamble" + b"".join(map(part, images)) + b"\r\n--xx--\r\nan epilogue"
    for number, length in enumerate((1, 7, 1000, len(body))):
        pieces = [body[at : at + length] for at in range(0, len(body), length)]
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "another").touch()
        assert fetched(folder, Answer(pieces, MULTIPART)) == 3
        assert [file.read_bytes() for file in sorted(folder.glob("*.dcm"))] == images
    whole = Answer(images[0], "application/dicom; transfer-syntax=1.2.840.10008.1.2.1")
    (tmp_path / "one").mkdir()
    assert fetched(tmp_path / "one", whole) == 1
    assert fetched(tmp_path / "one", Answer(status=204, kind=None)) == 0


FETCHED: dict[str, Callable[[list[bytes]], tuple[Answer, str]]] = {
    "a login page": lambda images: (Answer(PAGE, "text/html"), "a web page came"),
    "JSON": lambda images: (Answer(b"[]"), "came"),
    "no type": lambda images: (Answer(images[0], None), "came"),
    "no end": lambda images: (Answer([*map(part, images)], MULTIPART), "cut off"),
    "no end of the last": lambda images: (
        Answer([part(images[0]), part(images[1])[:-9]], MULTIPART),
        "cut off",
    ),
    "another boundary": lambda images: (
        Answer(part(images[0]) + b"\r\n--xx--", MULTIPART.replace("xx", "yy")),
        "cut off",
    ),
    "no boundary": lambda images: (Answer(part(images[0]), "multipart/related"), "came"),
    "nothing": lambda images: (Answer(b"", MULTIPART), "cut off"),
    "headers without end": lambda images: (Answer(b"--xx\r\n" + b"X: y" * 30_000, MULTIPART), "no end of headers"),
    "a part that is a page": lambda images: (Answer(part(PAGE, b"text/html") + b"\r\n--xx--", MULTIPART), "a part"),
    "a part that is no DICOM": lambda images: (Answer(part(PAGE) + b"\r\n--xx--", MULTIPART), "no DICOM"),
    "an empty part": lambda images: (Answer(part(b"") + b"\r\n--xx--", MULTIPART), "no DICOM"),
    "half an image": lambda images: (Answer(part(images[0][:200]) + b"\r\n--xx--", MULTIPART), "no DICOM"),
    "no end at all": lambda images: (Answer(endless(part(images[0])), MULTIPART), "more than 1 MB"),
    "another series": lambda images: (
        Answer(part(images[0].replace(b"1.2.3\0", b"1.2.4\0")) + b"\r\n--xx--", MULTIPART),
        "an image of another series",
    ),
    "gone": lambda images: (Answer(status=404), "HTTP 404"),
    "broken": lambda images: (Answer(status=500), "HTTP 500"),
}


@pytest.mark.parametrize("case", FETCHED)
def test_a_series_that_does_not_come_is_told(case: str, images: list[bytes], tmp_path: Path) -> None:
    answer, told = FETCHED[case](images)
    with pytest.raises(ArchiveError) as raised:
        fetched(tmp_path, answer)
    assert told in str(raised.value)
    assert not any(word in str(raised.value) for word in (NAME, "Secretname", str(tmp_path)))


def test_one_image_sent_often_counts_once(images: list[bytes], tmp_path: Path) -> None:
    assert fetched(tmp_path, Answer(part(images[0]) * 3 + b"\r\n--xx--", MULTIPART)) == 1


@pytest.mark.parametrize("uid", ["../../x", "1.2/3", "", "*", "..", "1.2\\3", "1.2?a=b", "1" * 65, "1.2\n", "%2e%2e"])
def test_uids_that_are_paths_are_left(uid: str, tmp_path: Path) -> None:
    def answers(method: str, path: str) -> Answer:
        if path.startswith("/studies?"):
            return Answer(studies_of("1.2", uid or "1.9"))
        return Answer(series_of(uid or "?"))

    with site(answers) as (url, asked):
        state = State(tmp_path / "state")
        source = ArchiveSource(open_archive(url), Query("CT"), state, "m")
        assert list(source) == []
        state.close()
        assert source.left == 2
    assert {path.split("?")[0] for _, path in asked} <= {"/studies", "/studies/1.2/series", "/studies/1.9/series"}


@pytest.mark.parametrize("count", [-1, "many", 1.5, True, {"a": 1}, "9" * 5000])
def test_a_number_of_images_that_is_none_is_told(count: Any) -> None:
    with (
        site(always(Answer(series_of("1.2", count)))) as (url, _),
        pytest.raises(ArchiveError, match="number of images"),
    ):
        open_archive(url).series("1.1", "CT")


def test_a_service_that_ignores_what_is_asked_gives_no_more_than_that() -> None:
    other = {"00080060": {"Value": ["MR"]}, "0020000E": {"Value": ["1.2.4"]}}
    series = json.dumps([json.loads(series_of("1.2.3", 10**12))[0], other]).encode()
    with site(lambda method, path: Answer(series if "/series" in path else studies_of("1.2", "1.3"))) as (url, _):
        archive = open_archive(url)
        assert archive.studies(Query("CT", studies=("1.3",))) == ["1.3"]
        assert archive.series("1.2", "CT") == {"1.2.3": 10**12}


def stored(uid: str) -> bytes:
    return json.dumps({"00081199": {"Value": [{"00081155": {"Value": [uid]}}]}}).encode()


def failed(uid: str, reason: int) -> bytes:
    refused = {"00081155": {"Value": [uid]}, "00081197": {"Value": [reason]}}
    return json.dumps({"00081198": {"Value": [refused]}}).encode()


@dataclass
class Stow:
    """What a service says of a storing, whether it has the object then, and what is to come of it."""

    says: Callable[[str], Answer]
    has: bool
    told: str | None
    kind: Failure | None = None


STORED = {
    "named": Stow(lambda uid: Answer(stored(uid)), False, None),
    "named with a charset": Stow(lambda uid: Answer(stored(uid), f"{DICOM_JSON}; charset=utf-8"), False, None),
    "there already": Stow(lambda uid: Answer(failed(uid, 0x0111), status=409), True, None),
    "refused": Stow(lambda uid: Answer(failed(uid, 0x0122), status=409), False, "0x0122", Failure.IMPOSSIBLE),
    "refused by 202": Stow(lambda uid: Answer(failed(uid, 0xA700), status=202), False, "0xa700", Failure.DAMAGED),
    "refused by 200 with a charset": Stow(
        lambda uid: Answer(failed(uid, 0xA900), f"{DICOM_JSON}; charset=utf-8"), False, "0xa900", Failure.IMPOSSIBLE
    ),
    "refused without a reason": Stow(lambda uid: Answer(failed(uid, None), status=409), False, "0x0110"),  # type: ignore[arg-type]
    "another one named": Stow(lambda uid: Answer(stored("1.9")), False, "tells of no storing"),
    "no word, and there": Stow(lambda uid: Answer(b""), True, None),
    "no word, and not there": Stow(lambda uid: Answer(b""), False, "tells of no storing", Failure.DAMAGED),
    "XML, and there": Stow(lambda uid: Answer(b"<NativeDicomModel/>", "application/dicom+xml"), True, None),
    "a login page": Stow(lambda uid: Answer(PAGE, "text/html"), False, "tells of no storing"),
    "409 and a page": Stow(lambda uid: Answer(PAGE, "text/html", 409), False, "no storing", Failure.IMPOSSIBLE),
    "a redirect": Stow(
        lambda uid: Answer(status=301, headers={"Location": "/else"}), True, "sends us", Failure.REFUSED
    ),
    "a redirect that keeps the method": Stow(
        lambda uid: Answer(status=307, headers={"Location": "/else"}), True, "sends us", Failure.REFUSED
    ),
    "too large": Stow(lambda uid: Answer(status=413), False, "HTTP 413", Failure.IMPOSSIBLE),
    "not allowed": Stow(lambda uid: Answer(status=401), False, "HTTP 401", Failure.REFUSED),
    "busy": Stow(lambda uid: Answer(status=503, headers={"Retry-After": "7"}), False, "HTTP 503", Failure.UNAVAILABLE),
}


@pytest.mark.parametrize("case", STORED)
def test_what_is_not_stored_is_not_taken_for_it(case: str, images: list[bytes], tmp_path: Path) -> None:
    from pydicom import dcmread

    one = STORED[case]
    (tmp_path / "report.dcm").write_bytes(images[0])
    uid = dcmread(tmp_path / "report.dcm").SOPInstanceUID

    def answers(method: str, path: str) -> Answer:
        if method == "POST":
            return one.says(uid)
        return Answer(json.dumps([{"00080018": {"Value": [uid]}}] if one.has else []).encode())

    with site(answers) as (url, asked):
        archive = open_archive(url)
        if one.told is None:
            archive.store([tmp_path / "report.dcm"])
        else:
            with pytest.raises(ArchiveError) as raised:
                archive.store([tmp_path / "report.dcm"])
            assert one.told in str(raised.value)
            assert one.kind in (None, raised.value.kind)
            assert raised.value.wait == (7 if case == "busy" else 0)
    assert sum(method == "POST" for method, _ in asked) == 1


def test_a_certificate_that_nobody_vouches_for_is_told_and_not_tried_again(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    try:
        subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with site(always(Answer(b"[]")), context) as (url, _):
        with pytest.raises(ArchiveError, match="certificate is not trusted") as raised:
            open_archive(url).studies(Query("CT"))
        assert raised.value.kind is Failure.REFUSED
        with pytest.raises(ArchiveError, match="no connection"):
            open_archive(url.replace("https", "http")).studies(Query("CT"))
    with site(always(Answer(b"[]"))) as (url, _):
        with pytest.raises(ArchiveError, match="does it speak https") as raised:
            open_archive(url.replace("http", "https")).studies(Query("CT"))
        assert raised.value.kind is Failure.REFUSED


def test_a_service_that_says_nothing_is_not_waited_for() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    began = time.monotonic()
    with listener, pytest.raises(ArchiveError, match="no answer in time") as raised:
        open_archive(f"http://127.0.0.1:{listener.getsockname()[1]}").studies(Query("CT"))
    assert raised.value.kind is Failure.UNAVAILABLE
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("proxy", ["407 Proxy Authentication Required", "403 Forbidden", "502 Bad Gateway"])
def test_a_proxy_that_refuses_is_told(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(listener: socket.socket) -> None:
        for _ in range(10):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(1 << 16)
                connection.sendall(f"HTTP/1.1 {proxy}\r\nContent-Length: 0\r\n\r\n".encode())

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with listener, pytest.raises(ArchiveError, match="proxy") as raised:
        open_archive("https://pacs.example.org/dicom-web").studies(Query("CT"))
    assert raised.value.kind is (Failure.UNAVAILABLE if "502" in proxy else Failure.REFUSED)


@pytest.mark.parametrize("url", ["http://u:p@host/x", "http://host/x?y=1", "http://host/x#y", "http://[::1"])
def test_addresses_that_are_none_are_told(url: str) -> None:
    with pytest.raises(ValueError, match=r"password|leave out|IPv6"):
        open_archive(url)


@pytest.mark.parametrize("url", ["http://", "http://a..b/x", "http://127.0.0.1:99999/x", "http://*/x"])
def test_addresses_that_nothing_answers_at_are_told(url: str) -> None:
    with pytest.raises(ArchiveError, match="DICOMweb"):
        open_archive(url).studies(Query("CT"))

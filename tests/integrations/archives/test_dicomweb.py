"""Whatever a web server answers to a search, an error of ours is raised that tells nothing of the answer."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("requests", reason="the extra 'dicom' is not installed")

from monai_rd.integrations.archives.archive import Query
from monai_rd.integrations.archives.archive_endpoints import ArchiveSource
from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.archives.failures import ArchiveError, Failure
from monai_rd.integrations.archives.state import State
from tests.dicom_files import NAME
from tests.integrations.archives.test_archive_endpoints import Finder
from tests.integrations.archives.web_server import PAGE, SECRET, Answer, always, endless, series_of, site, studies_of

pytestmark = pytest.mark.usefixtures("short")
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


@pytest.mark.parametrize("uid", ["../../x", "1.2/3", "", "*", "..", "1.2\\3", "1.2?a=b", "1" * 65, "1.2\n", "%2e%2e"])
def test_uids_that_are_paths_are_left(uid: str, tmp_path: Path) -> None:
    def answers(method: str, path: str) -> Answer:
        if path.startswith("/studies?"):
            return Answer(studies_of("1.2", uid or "1.9"))
        return Answer(series_of(uid or "?"))

    with site(answers) as (url, asked):
        state = State(tmp_path / "state")
        source = ArchiveSource(open_archive(url), Query("CT"), state, Finder())
        assert list(source) == []
        state.close()
        assert len(source.left) == 2
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

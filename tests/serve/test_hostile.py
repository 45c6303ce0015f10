"""What nobody sends who means well is refused, in words, and leaves nothing behind."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_rd.inference import Predictor
from tests.serve.conftest import FILES, SENT
from tests.serve.serving import Browser, Reply, noise, serving
from tests.waiting import wait_for

# ------------------------------------------------------------------------------------------------ too much


def test_too_much_by_its_own_words_is_refused_before_it_is_sent(page: Browser) -> None:
    job = page.new()
    reply = announce(page, job, f"Content-Length: {2 * 10**9}")
    assert reply.startswith("HTTP/1.1 413")
    assert "That is more than 2.5 MB." in reply


def test_too_much_without_a_word_is_refused_when_it_is(page: Browser, folder: Path) -> None:
    job = page.new()
    block = bytes(100_000)
    received = 0

    def endless() -> Iterator[bytes]:
        nonlocal received
        while received < 2 * 10**9:
            received += len(block)
            yield block

    assert page.put(job, 1, "1.dcm", endless()).status in (0, 413)
    assert received < 10**8
    wait_for(lambda: not [path for path in folder.rglob("*") if path.is_file()])


def test_too_much_in_several_files(page: Browser) -> None:
    job = page.new()
    assert [page.put(job, n, "1.dcm", noise(SENT // 3)).status for n in range(1, 4)] == [204, 204, 204]
    assert page.put(job, 4, "1.dcm", noise(SENT // 3)).status in (0, 413)


def test_more_than_it_has_announced(page: Browser) -> None:
    job = page.new()
    reply = announce(page, job, "Content-Length: 5", body=b"12345GET / HTTP/1.1\r\nHost: evil\r\n\r\n")
    assert "204" in reply.splitlines()[0]
    assert "HTTP/1.1 200" not in reply  # what follows is a request of its own, and of no known host


@pytest.mark.parametrize("length", ["-1", "5, 6", "5e9", "0x10", "9" * 5000])
def test_lengths_that_are_none(page: Browser, length: str) -> None:
    assert announce(page, page.new(), f"Content-Length: {length}").startswith(("HTTP/1.1 4", "HTTP/1.1 5"))


def announce(page: Browser, job: str, header: str, body: bytes = b"") -> str:
    """Send a request of a file byte by byte, and return what comes back."""
    own = f"127.0.0.1:{page.port}"
    lines = [f"PUT {job}/files/1 HTTP/1.1", f"Host: {own}", f"Origin: http://{own}", f"Cookie: {page.cookie}", header]
    with socket.create_connection(("127.0.0.1", page.port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while block := connection.recv(65536):
            found += block
    return found.decode()


@pytest.mark.parametrize("number", ["0", "-1", str(FILES + 1), "9" * 30, "1.5", "x", "..%2f1", "%2e%2e"])
def test_numbers_that_are_none(page: Browser, folder: Path, number: str) -> None:
    job = page.new()
    reply = page.ask("PUT", f"{job}/files/{number}", b"x", X_Name="1.dcm")
    assert reply.status in (404, 405, 413)
    assert list(folder.rglob("*.dcm")) == []


def test_a_number_twice_and_a_started_upload(page: Browser) -> None:
    job = page.new()
    assert page.put(job, 1, "1.dcm", b"x").status == 204
    assert page.put(job, 1, "1.dcm", b"y").status == 409
    assert page.ask("POST", f"{job}/start").status == 204
    assert page.ask("POST", f"{job}/start").status == 409
    assert page.put(job, 2, "1.dcm", b"y").status == 409
    empty = page.new()
    reply = page.ask("POST", f"{empty}/start")
    assert (reply.status, "There is no file" in reply.text) == (400, True)


def test_too_many_uploads(predictor: Predictor, tmp_path: Path) -> None:
    with serving(predictor, tmp_path / "files", uploads=2) as page:
        first = page.new()
        page.new()
        reply = page.ask("POST", "/jobs")
        assert (reply.status, "Too many uploads" in reply.text) == (503, True)
        page.ask("DELETE", first)
        page.new()


def test_a_full_disk(predictor: Predictor, tmp_path: Path) -> None:
    with serving(predictor, tmp_path / "files", free=10**18) as page:
        reply = page.put(page.new(), 1, "1.dcm", b"x")
    assert (reply.status, "disk" in reply.text) == (507, True)


# ------------------------------------------------------------------------------------------------ names and files


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../../../etc/passwd", ""),
        ("/etc/passwd.dcm", ".dcm"),
        ("C:\\evil\\1.NII.GZ", ".nii.gz"),
        ("a/b\0c.png", ".png"),
        ("<img src=x onerror=alert(1)>.png", ".png"),
        ("x.dcm/../../y", ""),
        ("1.dcm;rm -rf .", ""),
        ("Sn\u00f6re^Anna.\u202egnp", ""),
        ("." * 300 + "/con.tif", ".tif"),
        ("", ""),
    ],
)
def test_names_are_forgotten_but_for_their_kind(page: Browser, folder: Path, name: str, kind: str) -> None:
    job = page.new()
    assert page.put(job, 7, name, b"x").status == 204
    found = [path for path in folder.rglob("*") if path.is_file()]
    system = name.startswith("..") or "/.." in name
    assert [path.name for path in found] == ([] if system else [f"000007{kind}"])


def test_a_name_too_long(page: Browser) -> None:
    assert page.put(page.new(), 1, "a" * 9000, b"x").status == 400


def test_files_that_are_no_images(page: Browser) -> None:
    """Garbage with the names of images, a volume whose voxels are a file of the system, a report without pixels."""
    outside = b"NDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = "
    job = page.send(
        {
            "1.dcm": noise(3000),
            "2.png": b"\x89PNG\r\n\x1a\n" + noise(100),
            "3.nii.gz": b"\x1f\x8b" + noise(100),
            "4.mhd": outside + b"/etc/passwd",
            "5.mhd": outside + b"../../../../etc/passwd",
            "6.dcm": bytes(128) + b"DICM" + noise(100),
        }
    )
    text = page.get(job).text
    assert "0 studies answered, 6 without an answer" in text
    assert "root:" not in text


# ------------------------------------------------------------------------------------------------ who asks


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "192.168.1.5", "", "localhost@evil", "[::2]"]
)
def test_other_names_of_this_computer(page: Browser, host: str) -> None:
    for method, address in (("GET", "/"), ("GET", "/page.js"), ("POST", "/jobs")):
        reply = page.ask(method, address, Host=f"{host}:{page.port}" if host else "")
        assert reply.status in (400, 421), reply.status
        assert "Show it images" not in reply.text


def test_own_names_of_this_computer(page: Browser) -> None:
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "[::1]"):
        assert Browser(page.port, host).ask("GET", "/").status == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "https://127.0.0.1:{port}", "http://127.0.0.1:1"]
)
def test_requests_of_other_pages(page: Browser, folder: Path, origin: str) -> None:
    job = page.new()
    told = origin.format(port=page.port)
    for method, address in (("POST", "/jobs"), ("PUT", f"{job}/files/1"), ("POST", f"{job}/start"), ("DELETE", job)):
        reply = page.ask(method, address, b"x", Origin=told)
        assert (reply.status, "another page" in reply.text) == (403, True)
    page.get(job)


def test_another_session_sees_nothing(page: Browser) -> None:
    job = page.send({"1.dcm": noise(300)})
    stranger = Browser(page.port)
    stranger.get("/")
    for address in ("", "/state", "/scores.csv", "/reports.zip", "/studies/1", "/studies/1/heat/1"):
        assert stranger.ask("GET", job + address).status == 404
    for method, address in (("PUT", f"{job}/files/2"), ("POST", f"{job}/start"), ("DELETE", job)):
        assert stranger.ask(method, address, b"x").status == 404
    assert job not in stranger.get("/").text
    assert job in page.get("/").text


@pytest.mark.parametrize("cookie", ["", "x", "x.y", ".", "a.b.c", "\xe9.\xe9"])
def test_cookies_that_the_server_has_not_made(page: Browser, cookie: str) -> None:
    forged = Browser(page.port, cookie=f"monai_rd_{page.port}={cookie}")
    assert forged.ask("POST", "/jobs").status == 401


@pytest.mark.parametrize(
    "address",
    [
        *("/jobs/x", "/jobs/../../etc/passwd", "/jobs/%2e%2e%2f%2e%2e%2fetc%2fpasswd/scores.csv", "/etc/passwd"),
        *("//evil.example/", "/page.js/..", "/docs", "/openapi.json", "/templates/job.html", "/report/../page.css"),
    ],
)
def test_addresses_that_lead_nowhere(page: Browser, address: str) -> None:
    page.get("/")
    reply = page.ask("GET", address)
    assert reply.status == 404
    assert "root:" not in reply.text
    assert "location" not in reply.headers


def test_every_answer_tells_the_browser_what_it_may(page: Browser) -> None:
    for reply in (page.get("/"), page.get("/nowhere", status=404), page.ask("POST", "/jobs", Origin="http://evil")):
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert "server" not in reply.headers
    cookie = Browser(page.port).get("/").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


def test_the_token(predictor: Predictor, tmp_path: Path) -> None:
    with serving(predictor, tmp_path / "files", host="192.168.1.5", token="right-token") as page:
        page.host = "192.168.1.5"
        assert "has printed an address with a token" in page.get("/").text
        assert page.cookie == ""
        for method, address in (("POST", "/jobs"), ("GET", "/jobs/x"), ("GET", "/report")):
            assert page.ask(method, address).status == 401
        for wrong in (b"", b"right-tokeN", b"right-token" * 100, b"\xff\xfe"):
            reply = page.ask("POST", "/login", wrong)
            assert (reply.status, page.cookie) == (403, "")
        assert page.ask("POST", "/login", b"right-token", Origin="http://evil.example").status == 403
        assert page.ask("GET", "/", Host="evil.example").status == 421
        assert page.ask("POST", "/login", b"right-token").status == 204
        assert "Show it images" in page.get("/").text
        page.new()


def test_a_program_failure_is_told_without_what_was_sent(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> Reply:
        raise RuntimeError("Secretname^Anna")

    monkeypatch.setattr("monai_rd.serve.jobs.Jobs.new", failing)
    with serving(predictor, tmp_path / "files") as page:
        page.get("/")
        reply = page.ask("POST", "/jobs")
    assert reply.status == 500
    assert "Secretname" not in reply.text + caplog.text
    assert "a request failed with a RuntimeError" in caplog.text

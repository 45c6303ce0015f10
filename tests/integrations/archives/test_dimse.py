"""Whatever an archive of the classic network does, the error is ours; and its associations stay open."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLSLossless

pytest.importorskip("pynetdicom", reason="the extra 'test' is not installed")

from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification

from monai_rd.integrations.archives import dimse
from monai_rd.integrations.archives.archive import Archive, Query
from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.archives.failures import ArchiveError, Failure
from tests.dicom_files import NAME, make_series
from tests.waiting import wait_for

pytestmark = pytest.mark.usefixtures("soon_closed")
FIND, GET, MOVE = dimse._FIND, dimse._GET, dimse._MOVE
Handlers = dict[Any, Callable[[evt.Event], Any]]


@contextmanager
def scp(handlers: Handlers, kinds: tuple[str, ...] = (FIND, GET, MOVE), **settings: Any) -> Iterator[str]:
    """An archive on this machine alone that does what its handlers say; gives its address."""
    server = AE("PACS")
    for kind in kinds:
        server.add_supported_context(kind)
    server.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
    for name, value in settings.items():
        setattr(server, name, value)
    running = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers.items()))
    try:
        yield f"dimse://PACS@127.0.0.1:{running.server_address[1]}"
    finally:
        running.shutdown()


def found(*values: dict[str, Any], last: int = 0x0000) -> Callable[[evt.Event], Iterator[tuple[int, Dataset | None]]]:
    """A handler of C-FIND with these answers, and a last status."""

    def handler(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for one in values:
            answer = Dataset()
            answer.QueryRetrieveLevel = "STUDY"
            for keyword, value in one.items():
                setattr(answer, keyword, value)
            yield 0xFF00, answer
        yield last, None

    return handler


def sent(files: list[Path], last: int = 0x0000) -> Callable[[evt.Event], Iterator[Any]]:
    """A handler of C-GET that sends files."""

    def handler(event: evt.Event) -> Iterator[Any]:
        if last:
            yield 1
            yield last, None
            return
        yield len(files)
        for file in files:
            yield 0xFF00, dcmread(file)

    return handler


def aborts(event: evt.Event) -> Iterator[Any]:
    event.assoc.abort()
    yield 0x0000, None


def refused(event: evt.Event) -> None:
    event.assoc.abort()


ARCHIVES: dict[str, tuple[Handlers, dict[str, Any], str, Failure]] = {
    "another title": ({}, {"require_called_aet": True, "ae_title": "OTHER"}, "another AE title", Failure.REFUSED),
    "ours unknown": ({}, {"require_calling_aet": ["X"]}, "our AE title 'MONAI_RD'", Failure.REFUSED),
    "no C-FIND": ({}, {"kinds": (GET,)}, "does not offer it", Failure.REFUSED),
    "nothing we know": ({}, {"kinds": (Verification,)}, "nor|does not offer it", Failure.REFUSED),
    "aborts": ({evt.EVT_C_FIND: aborts}, {}, "does it know our AE title 'MONAI_RD'", Failure.REFUSED),
    "aborts at once": ({evt.EVT_ACCEPTED: refused}, {}, "AE title", Failure.UNAVAILABLE),
    "refuses many": ({evt.EVT_C_FIND: found(last=0xA700)}, {}, "raise its limit", Failure.REFUSED),
    "cannot": ({evt.EVT_C_FIND: found(last=0xC001)}, {}, "status 0xc001", Failure.DAMAGED),
    "does not match": ({evt.EVT_C_FIND: found(last=0xA900)}, {}, "status 0xa900", Failure.IMPOSSIBLE),
    "may not": ({evt.EVT_C_FIND: found(last=0x0124)}, {}, "we may not", Failure.REFUSED),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_does_not_answer_a_search_is_told(case: str) -> None:
    handlers, settings, told, kind = ARCHIVES[case]
    with scp(handlers, **settings) as url, pytest.raises(ArchiveError, match=told) as raised:
        open_archive(url).studies(Query("CT"))
    if case != "aborts at once":  # a matter of who is faster
        assert raised.value.kind is kind


def test_answers_to_a_search_that_are_none_are_not_believed() -> None:
    with scp(
        {evt.EVT_C_FIND: found({"PatientName": NAME}, {"StudyInstanceUID": "1.2"}, {"StudyInstanceUID": "*"})}
    ) as url:
        assert open_archive(url).studies(Query("CT")) == ["", "*", "1.2"]  # `ArchiveSource` leaves what is no UID
        assert open_archive(url).studies(Query("CT", studies=("1.2", "1.3"))) == ["1.2"]
    series = ({"SeriesInstanceUID": "1.2", "NumberOfSeriesRelatedInstances": 3, "Modality": "CT"},)
    with scp({evt.EVT_C_FIND: found(*series, {"SeriesInstanceUID": "1.3", "Modality": "MR"})}) as url:
        assert open_archive(url).series("1.1", "CT") == {"1.2": 3}
    with (
        scp({evt.EVT_C_FIND: found({"SeriesInstanceUID": "1.2", "NumberOfSeriesRelatedInstances": -3})}) as url,
        pytest.raises(ArchiveError, match="number of images"),
    ):
        open_archive(url).series("1.1", "CT")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    def named(k: int, ds: Any) -> None:
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2", "1.2.3"

    make_series(tmp_path / "in", slices=5, change=named)
    return sorted((tmp_path / "in").iterdir())


def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    return made


def test_images_are_written_as_they_came_over_one_association(files: list[Path], tmp_path: Path) -> None:
    opened: list[str] = []
    handlers = {
        evt.EVT_C_FIND: found({"StudyInstanceUID": "1.2"}),
        evt.EVT_C_GET: sent(files),
        evt.EVT_ACCEPTED: lambda event: opened.append("one"),
    }
    out = folder(tmp_path)
    with scp(handlers) as url:
        archive = open_archive(url)
        for _ in range(3):
            assert archive.studies(Query("CT")) == ["1.2"]
            for file in out.iterdir():
                file.unlink()
            assert archive.fetch("1.2", "1.2.3", out) == 5
        assert opened == ["one"]
        expected = {one.SOPInstanceUID: one for one in map(dcmread, files)}
        for file in out.iterdir():
            came = dcmread(file)
            assert came == expected.pop(came.SOPInstanceUID)
            assert came.file_meta.MediaStorageSOPInstanceUID == came.SOPInstanceUID
            assert came.file_meta.MediaStorageSOPClassUID == CTImageStorage
        assert not expected
        for study, series in (("1.2", "1.2.4"), ("1.9", "1.2.3")):
            with pytest.raises(ArchiveError, match="another series"):
                archive.fetch(study, series, out)
        archive.close()
        assert archive.studies(Query("CT")) == ["1.2"]
        assert len(opened) == 2


@pytest.mark.parametrize(
    ("status", "told", "kind"),
    [(0xA701, "0xa701", Failure.DAMAGED), (0xC000, "0xc000", Failure.DAMAGED), (0xA900, "0xa900", Failure.IMPOSSIBLE)],
)
def test_a_series_that_cannot_be_had_is_told(
    status: int, told: str, kind: Failure, files: list[Path], tmp_path: Path
) -> None:
    with scp({evt.EVT_C_GET: sent(files, status)}) as url, pytest.raises(ArchiveError, match=told) as raised:
        open_archive(url).fetch("1.2", "1.2.3", folder(tmp_path))
    assert raised.value.kind is kind


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def test_an_archive_that_does_not_know_where_to_send_is_told(tmp_path: Path) -> None:
    def nowhere(event: evt.Event) -> Iterator[Any]:
        yield None, None

    with scp({evt.EVT_C_MOVE: nowhere}) as url, pytest.raises(ArchiveError, match="where to send") as raised:
        open_archive(url, listen=free_port()).fetch("1.2", "1.2.3", folder(tmp_path))
    assert raised.value.kind is Failure.REFUSED


@pytest.mark.parametrize(
    ("kinds", "listen", "told"), [((FIND, MOVE), False, "--listen"), ((FIND, GET), True, "Leave out")]
)
def test_a_way_that_an_archive_does_not_know_is_told(
    kinds: tuple[str, ...], listen: bool, told: str, tmp_path: Path
) -> None:
    with scp({}, kinds=kinds) as url, pytest.raises(ArchiveError, match=told) as raised:
        open_archive(url, listen=free_port() if listen else None).fetch("1.2", "1.2.3", folder(tmp_path))
    assert raised.value.kind is Failure.REFUSED


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken, scp({}) as url:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"--listen {port}: cannot listen") as raised:
            open_archive(url, listen=port).fetch("1.2", "1.2.3", folder(tmp_path))
        assert not isinstance(raised.value, ArchiveError)


@pytest.mark.parametrize(
    ("status", "kind"), [(0x0000, None), (0xB000, None), (0x0111, None), (0x0122, "IMPOSSIBLE"), (0xA700, "DAMAGED")]
)
def test_what_an_archive_says_of_a_storing(status: int, kind: str | None, files: list[Path]) -> None:
    with scp({evt.EVT_C_STORE: lambda event: status}) as url:
        archive = open_archive(url)
        if kind is None:
            archive.store(files)
        else:
            with pytest.raises(ArchiveError, match=f"{status:#06x}") as raised:
                archive.store(files)
            assert raised.value.kind is Failure[kind]


@pytest.mark.parametrize(
    "syntaxes", [[ExplicitVRLittleEndian], [JPEGLSLossless, ExplicitVRLittleEndian], [JPEGLSLossless]]
)
def test_a_compressed_result_is_unpacked_for_who_cannot(syntaxes: list[str], files: list[Path], tmp_path: Path) -> None:
    came: list[Dataset] = []

    def take(event: evt.Event) -> int:
        came.append(event.dataset)
        came[-1].file_meta = event.file_meta
        return 0x0000

    compressed, expected = [], {}
    for file in files[:2]:
        one = dcmread(file)
        expected[one.SOPInstanceUID] = one.pixel_array
        one.compress(JPEGLSLossless, generate_instance_uid=False)
        compressed.append(tmp_path / file.name)
        one.save_as(compressed[-1])
    server = AE("PACS")
    server.add_supported_context(CTImageStorage, syntaxes)
    running = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    archive = open_archive(f"dimse://PACS@127.0.0.1:{running.server_address[1]}")
    try:
        archive.store(compressed)
        if ExplicitVRLittleEndian in syntaxes:
            archive.store(files[2:])
        else:
            with pytest.raises(ArchiveError, match="this kind of object") as raised:
                archive.store(files[2:])
            assert raised.value.kind is Failure.IMPOSSIBLE
    finally:
        running.shutdown()
    assert len(came) == (2 if syntaxes == [JPEGLSLossless] else 5)
    for one in came[:2]:
        assert one.file_meta.TransferSyntaxUID == syntaxes[0]
        assert np.array_equal(one.pixel_array, expected[one.SOPInstanceUID])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_deflated_result_arrives_as_it_was(syntax: str, files: list[Path], tmp_path: Path) -> None:
    came: list[Dataset] = []

    def take(event: evt.Event) -> int:
        came.append(event.dataset)
        assert event.context.transfer_syntax == syntax
        return 0x0000

    one = dcmread(files[0])
    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    one.save_as(tmp_path / "deflated.dcm")
    server = AE("PACS")
    server.add_supported_context(CTImageStorage, syntax)
    running = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    try:
        open_archive(f"dimse://PACS@127.0.0.1:{running.server_address[1]}").store([tmp_path / "deflated.dcm"])
    finally:
        running.shutdown()
    assert came == [dcmread(files[0])]


def test_an_association_that_the_archive_has_ended_is_made_anew(files: list[Path]) -> None:
    opened: list[evt.Event] = []
    handlers = {evt.EVT_C_FIND: found({"StudyInstanceUID": "1.2"}), evt.EVT_ACCEPTED: opened.append}
    with scp(handlers) as url:
        archive: Any = open_archive(url)
        ends: list[Callable[[Any], object]] = [
            lambda one: one.abort(),
            lambda one: one.dul.socket.socket.shutdown(socket.SHUT_RDWR),
            lambda one: one.acse.send_release(),
            lambda one: None,
        ]
        for number, end in enumerate(ends, start=1):
            assert archive.studies(Query("CT")) == ["1.2"]
            assert len(opened) == number
            end(opened[-1].assoc)
            ours, _ = archive._open._associations["ask"]
            if number < len(ends):
                wait_for(lambda ours=ours: not ours.stands(), seconds=5)  # until we have heard of it


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x02\x00\x00\x00\xff\xff", b"\x02\x00\xff\xff\xff\xff\x00"]
)
def test_what_speaks_no_dicom_is_told(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dimse, "_TIMEOUT", 0.5)
    monkeypatch.setattr(dimse, "_AGREEING", 0.5)

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connection.recv(1 << 16)
            connection.sendall(said)
            time.sleep(2)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        with pytest.raises(ArchiveError, match="cannot be reached") as raised:
            open_archive(f"dimse://A@127.0.0.1:{listener.getsockname()[1]}").studies(Query("CT"))
    assert raised.value.kind is Failure.UNAVAILABLE


@pytest.mark.parametrize("place", ["127.0.0.1:9", "no-such-machine.invalid:104", "localhost:9"])
def test_nobody_there(place: str) -> None:
    with pytest.raises(ArchiveError, match="cannot be reached"):
        open_archive(f"dimse://A@{place}").studies(Query("CT"))


@pytest.mark.slow
def test_no_answer_to_a_search_is_lost_however_busy_the_machine_is() -> None:
    """A loop that looks for messages between two requests would now and then take an answer for itself."""
    busy = True

    def work() -> None:
        while busy:
            sum(range(1000))

    with scp({evt.EVT_C_FIND: found({"StudyInstanceUID": "1.2"})}) as url:
        archive: Archive = open_archive(url)
        threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
        for one in threads:
            one.start()
        try:
            counts = [len(archive.studies(Query("CT"))) for _ in range(30)]
        finally:
            busy = False
    assert counts == [1] * 30


@pytest.mark.slow
def test_a_program_ends_although_an_association_is_open() -> None:
    with scp({evt.EVT_C_FIND: found({"StudyInstanceUID": "1.2"})}) as url:
        code = f"""
from monai_rd.integrations.archives.archive import Query
from monai_rd.integrations.archives.archive_url import open_archive
archive = open_archive({url!r})
print(archive.studies(Query("CT")))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['1.2']\n", "")


def test_contexts_fit_in_an_association() -> None:
    assert len(dimse.IMAGES) + 2 <= 128


@pytest.mark.parametrize("title", [" ", "A" * 17, "MÜNCHEN", "A\\B", "A\n"])
def test_what_is_no_title_is_told(title: str) -> None:
    with pytest.raises(ValueError, match="no AE title"):
        open_archive("dimse://PACS@127.0.0.1:104", ae_title=title)


def test_what_is_no_port_is_told() -> None:
    for port, listen in ((0, None), (65536, None), (104, 0), (104, 65536)):
        with pytest.raises(ValueError, match="no port"):
            open_archive(f"dimse://PACS@127.0.0.1:{port}", listen=listen)


def test_an_answer_that_is_no_dicom_is_told() -> None:
    cut_off = bytes.fromhex("20000d00") + b"SQ" + bytes.fromhex("0000ffffffff0102")
    with pytest.raises(ArchiveError, match="no DICOM") as raised:
        dimse._decoded(cut_off, ExplicitVRLittleEndian, "DICOM: the archive could not be searched")
    assert raised.value.kind is Failure.DAMAGED

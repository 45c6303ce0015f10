"""What goes over an association of ours, against pynetdicom's and DCMTK's; how it is agreed on and ends."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

pytest.importorskip("pynetdicom", reason="the extra 'test' is not installed")

from pynetdicom import AE, evt

from monai_rd.integrations.archives import pdu as coding
from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.archives.association import Association, Proposed, Rejected, accept, request
from monai_rd.integrations.archives.failures import ArchiveError
from monai_rd.integrations.archives.pdu import Broken
from monai_rd.integrations.archives.receiving import Box, Receiver
from tests.dicom_files import make_series
from tests.integrations.archives.associations import CT, EXPLICIT, WAITS, connected, content, pair, pdu
from tests.servers import free_ports
from tests.waiting import wait_for

pytestmark = pytest.mark.usefixtures("soon_closed")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Images of half a megabyte, of an odd number of fragments."""
    make_series(tmp_path / "in", slices=3, shape=(512, 515))
    return sorted((tmp_path / "in").iterdir())


def same(came: list[Path], files: list[Path]) -> bool:
    return sorted(map(content, came)) == sorted(map(content, files)) and all(
        dcmread(one).file_meta.MediaStorageSOPInstanceUID == dcmread(one).SOPInstanceUID for one in came
    )


@pytest.mark.parametrize("largest", [100, 16384, 1 << 17, 0])
@pytest.mark.parametrize("way", ["C-GET", "C-MOVE"])
def test_large_images_arrive_bit_for_bit(
    way: str, largest: int, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever size of pieces we ask for; 0 is any."""
    monkeypatch.setattr(coding, "LARGEST", largest or 1 << 20)
    files = files[:1] if largest == 100 else files
    (listen,) = free_ports(1)

    def get(event: evt.Event) -> Iterator[Any]:
        yield len(files)
        for file in files:
            yield 0xFF00, dcmread(file)

    def move(event: evt.Event) -> Iterator[Any]:
        yield "127.0.0.1", listen, {"contexts": contexts}
        yield from get(event)

    server = AE("PACS")
    for kind in ("1.2.840.10008.5.1.4.1.2.2.2", "1.2.840.10008.5.1.4.1.2.2.3"):
        server.add_supported_context(kind)
    server.add_supported_context(CT, EXPLICIT, scu_role=True, scp_role=True)
    client = AE()
    client.add_requested_context(CT, EXPLICIT)
    contexts = client.requested_contexts
    handlers: Any = [(evt.EVT_C_GET, get), (evt.EVT_C_MOVE, move)]
    running = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    out = tmp_path / "out"
    out.mkdir()
    url = f"dimse://PACS@127.0.0.1:{running.server_address[1]}"
    first = dcmread(files[0])
    try:
        with closing(open_archive(url, listen=listen if way == "C-MOVE" else None)) as archive:
            assert archive.fetch(first.StudyInstanceUID, first.SeriesInstanceUID, out) == len(files)
    finally:
        running.shutdown()
    assert same(list(out.iterdir()), files)


@pytest.mark.parametrize("largest", [64, 4096, 0])
def test_who_takes_small_messages_gets_them(largest: int, files: list[Path]) -> None:
    came, pieces = [], set[int]()

    def take(event: evt.Event) -> int:
        came.append(event.encoded_dataset(include_meta=False))
        return 0x0000

    server = AE("PACS")
    server.add_supported_context(CT, EXPLICIT)
    server.maximum_pdu_size = largest
    handlers: Any = [(evt.EVT_C_STORE, take), (evt.EVT_DATA_RECV, lambda event: pieces.add(len(event.data)))]
    running = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    files = files[:1]
    try:
        with closing(open_archive(f"dimse://PACS@127.0.0.1:{running.server_address[1]}")) as archive:
            archive.store(files)
    finally:
        running.shutdown()
    assert came == [content(file) for file in files]
    if largest:
        assert largest + 6 in pieces
        assert sum(one > largest + 6 for one in pieces) <= 1  # the request for the association


def dcmtk(name: str) -> str | None:
    """DCMTK's program of a name that pynetdicom gives one of its own, beside Python."""
    own = Path(sys.prefix).resolve()
    folders = [one for one in os.get_exec_path() if own not in (path := Path(one).resolve(), *path.parents)]
    return shutil.which(name, path=os.pathsep.join(folders))


@pytest.mark.parametrize("words", [[], ["--max-send-pdu", "4096"], ["--propose-implicit"], ["--propose-lossless"]])
def test_dcmtk_sends_to_us(words: list[str], files: list[Path], receiver: Any, box: Box) -> None:
    program = dcmtk("storescu")
    if program is None:
        pytest.skip("storescu is not installed (Debian: dcmtk)")
    command = [program, *words, "127.0.0.1", str(receiver.port), *map(str, files)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    came = box.close()
    assert len(came) == len(files)
    if "--propose-implicit" not in words:
        assert same(came, files)
    else:
        assert {dcmread(one).file_meta.TransferSyntaxUID for one in came} == {ImplicitVRLittleEndian}
        expected = {one.SOPInstanceUID: one for one in map(dcmread, files)}
        assert all(dcmread(one) == expected.pop(dcmread(one).SOPInstanceUID) for one in came)


def test_dcmtk_takes_from_us(files: list[Path], tmp_path: Path) -> None:
    program = dcmtk("storescp")
    if program is None:
        pytest.skip("storescp is not installed (Debian: dcmtk)")
    (port,) = free_ports(1)
    (tmp_path / "theirs").mkdir()
    words = ["--max-pdu", "4096", "--bit-preserving", "-od", str(tmp_path / "theirs"), str(port)]
    server = subprocess.Popen([program, *words])
    try:
        with closing(open_archive(f"dimse://ANY@127.0.0.1:{port}")) as archive:
            for attempt in range(50):
                try:
                    archive.store(files)
                    break
                except ArchiveError:
                    assert attempt < 49
                    time.sleep(0.1)
    finally:
        server.terminate()
        server.wait(10)
    assert same(list((tmp_path / "theirs").iterdir()), files)


def test_of_the_transfer_syntaxes_the_first_that_we_know_is_taken(receiver: Any) -> None:
    place = ("127.0.0.1", receiver.port)
    proposed = [
        Proposed(CT, ("1.2.3", EXPLICIT, ImplicitVRLittleEndian)),
        Proposed(CT, ("1.2.3",)),
        Proposed("1.2", ()),
    ]
    made = request(place, ("US", "THEM"), proposed, WAITS)
    assert made.contexts == {1: (CT, EXPLICIT)}
    made.release()


@pytest.mark.parametrize("seed", range(5))
def test_damaged_answers_are_broken_or_used(seed: int, receiver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair()
    request_ = coding.agreement(b" " * 32, [coding.item(0x20, coding.context(1, CT, [EXPLICIT]))], [CT])
    theirs.sendall(pdu(1, request_))
    ours.settimeout(5)
    theirs.settimeout(5)
    accept(ours, [CT], [EXPLICIT])
    agreed = theirs.recv(1 << 16)
    chance = random.Random(seed)
    for _ in range(200):
        damaged = bytearray(agreed)
        for _ in range(chance.choice((1, 2, 8))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        here, there = pair()
        there.sendall(damaged[: chance.choice((len(damaged), chance.randrange(len(damaged))))])
        there.shutdown(socket.SHUT_WR)
        with monkeypatch.context() as patch, suppress(Broken, Rejected):
            patch.setattr(socket, "create_connection", lambda *words, here=here, **more: here)
            request(("x", 1), ("US", "THEM"), [Proposed(CT, (EXPLICIT,), to_us=True)], WAITS).abort()
        assert here.fileno() == -1  # closed
        there.close()
    ours.close()
    theirs.close()


@pytest.mark.parametrize("first", ["we", "they", "both"])
def test_both_sides_may_end_it(first: str, receiver: Receiver) -> None:
    made = connected(receiver)
    assert made.stands()
    begun = time.monotonic()
    {"we": made.release, "they": receiver.close, "both": lambda: (receiver.end(), made.release())}[first]()
    wait_for(lambda: not made.stands(), seconds=5)
    made.release()
    made.abort()
    assert time.monotonic() - begun < 30


def test_a_silent_archive_is_not_waited_for_for_ever() -> None:
    here, there = pair()
    here.settimeout(0.1)
    made = Association(here, {1: (CT, EXPLICIT)}, 0)
    there.sendall(b"\4\0\0")
    with pytest.raises(Broken) as raised:
        made.receive()
    assert raised.value.silent
    made.abort()
    there.close()

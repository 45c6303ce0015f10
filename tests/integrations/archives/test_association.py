"""What goes over an association of ours, against pynetdicom's and DCMTK's, and against who keeps to no rule."""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import AllTransferSyntaxes, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

pytest.importorskip("pynetdicom", reason="the extra 'test' is not installed")

from pynetdicom import AE, evt

from monai_rd.integrations.archives import pdu as coding
from monai_rd.integrations.archives import receiving
from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.archives.association import Association, Proposed, Rejected, accept, request
from monai_rd.integrations.archives.failures import ArchiveError
from monai_rd.integrations.archives.pdu import Broken
from monai_rd.integrations.archives.receiving import Box, Receiver
from tests.dicom_files import make_series
from tests.servers import free_ports

WAITS = (5.0, 5.0, 5.0)
CT = str(CTImageStorage)
EXPLICIT = str(ExplicitVRLittleEndian)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Images of half a megabyte, of an odd number of fragments."""
    make_series(tmp_path / "in", slices=3, shape=(512, 515))
    return sorted((tmp_path / "in").iterdir())


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    (port,) = free_ports(1)
    with closing(Receiver(port, [CT], 5.0)) as opened:
        opened.port = port  # type: ignore[attr-defined]
        yield opened


@pytest.fixture
def box(receiver: Receiver, tmp_path: Path) -> Box:
    (tmp_path / "out").mkdir()
    receiver.box = Box(tmp_path / "out")
    return receiver.box


def connected(receiver: Any, syntax: str = EXPLICIT) -> Association:
    place = ("127.0.0.1", receiver.port)
    return request(place, ("US", "THEM"), [Proposed(CT, (syntax,))], WAITS)


def content(file: Path) -> bytes:
    """A file's data set, as it stands there."""
    data = file.read_bytes()
    return data[144 + int.from_bytes(data[140:144], "little") :]


def store(made: Association, data: bytes, uid: str = "1.2.3") -> int:
    made.ask(1, receiving.STORE, {coding.UID: uid}, data)
    return made.receive().number(coding.STATUS)


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


def test_what_nobody_has_asked_for_is_refused(receiver: Receiver, tmp_path: Path) -> None:
    made = connected(receiver)
    assert store(made, b"ab" * 1000) == 0xA700
    receiver.box = Box(tmp_path)
    assert store(made, b"ab" * 1000) == 0x0000
    assert len(receiver.box.close()) == 1
    assert store(made, b"ab" * 1000) == 0xA700  # it is closed, and the association stands all the same
    made.release()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("uid", ["../../x", "a/b", "", "1" * 65, "1.2\0.3", "1.2 3"])
def test_a_uid_that_is_none_names_nothing(uid: str, receiver: Receiver, box: Box) -> None:
    made = connected(receiver)
    assert store(made, b"ab", uid) == 0xC000
    assert store(made, b"ab") == 0x0000
    made.release()
    assert [one.name for one in box.close()] == ["000000.dcm"]


@pytest.mark.parametrize("limit", ["_MOST_IMAGES", "_LARGEST_SERIES", "disk"])
def test_more_than_there_is_room_for_is_refused_and_leaves_no_file(
    limit: str, receiver: Receiver, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = connected(receiver)
    assert store(made, b"ab" * 100_000) == 0x0000
    if limit == "disk":
        (tmp_path / "out" / "000001.dcm").write_text("somebody's")  # cannot be written anew
    else:
        monkeypatch.setattr(receiving, limit, {"_MOST_IMAGES": 1, "_LARGEST_SERIES": 300_000}[limit])
    assert store(made, b"ab" * 100_000) == 0xA700
    made.release()
    assert [one.name for one in box.close()] == ["000000.dcm"]
    there = sorted(one.name for one in (tmp_path / "out").iterdir())
    assert there == ["000000.dcm", "000001.dcm"][: 2 if limit == "disk" else 1]


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        return here, listener.accept()[0]


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(body)) + body


def piece(control: int, data: bytes, context: int = 1) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context, control) + data


COMMAND = coding.command(
    {coding.KIND: CT, coding.FIELD: 1, coding.NUMBER: 7, coding.PRIORITY: 0, coding.DATA: 1, coding.UID: "1.2.3"}
)
DATA = bytes(range(250)) * 3


def test_pieces_may_be_cut_and_joined_anyhow(receiver: Receiver, box: Box) -> None:
    shapes = [
        pdu(4, piece(3, COMMAND) + piece(2, DATA)),
        pdu(4, piece(1, COMMAND[:10]))
        + pdu(4, piece(3, COMMAND[10:]) + piece(0, DATA[:301]))
        + pdu(4, piece(2, DATA[301:])),
        pdu(4, piece(3, COMMAND)) + pdu(4, piece(0, b"") + piece(0, DATA) + piece(2, b"")),
        b"".join(pdu(4, piece(1, bytes((one,)))) for one in COMMAND) + pdu(4, piece(3, b"") + piece(2, DATA)),
    ]
    made = connected(receiver)
    for shape in shapes:
        for at in range(0, len(shape), 97):  # and packets are cut where they like
            made._connection.sendall(shape[at : at + 97])
        answer = made.receive()
        assert (answer.number(coding.STATUS), answer.number(coding.ANSWERED)) == (0, 7)
    made.release()
    assert [content(one) for one in box.close()] == [DATA] * len(shapes)


BROKEN: dict[str, bytes] = {
    "cut off": pdu(4, piece(3, COMMAND) + piece(2, DATA))[:-1],
    "data without a command": pdu(4, piece(2, DATA)),
    "a command in the data": pdu(4, piece(3, COMMAND) + piece(0, DATA) + piece(3, COMMAND)),
    "another context": pdu(4, piece(3, COMMAND, 3)),
    "data of another context": pdu(4, piece(3, COMMAND) + piece(2, DATA, 3)),
    "a piece longer than its PDU": pdu(4, piece(3, COMMAND)[:-4]),
    "a piece of nothing": pdu(4, struct.pack(">L", 0) + b"\1\3"),
    "half a piece": pdu(4, b"\0\0\0"),
    "a command without end": pdu(4, piece(1, COMMAND)) * 2000,
    "a damaged command": pdu(4, piece(3, COMMAND[:-3])),
    "another group": pdu(4, piece(3, b"\x08" + COMMAND[1:])),
    "another service": pdu(4, piece(3, coding.command({coding.FIELD: 0x30, coding.DATA: 0x101}))),
    "a command of nothing": pdu(4, piece(3, b"")),
    "aborted in the middle": pdu(4, piece(3, COMMAND) + piece(0, DATA)) + pdu(7, bytes(4)),
    "released in the middle": pdu(4, piece(3, COMMAND) + piece(0, DATA)) + pdu(5, bytes(4)),
    "a web page": b"GET / HTTP/1.1\r\n\r\n" * 9,
    "an endless release": b"\5\0\xff\xff\xff\xff" + bytes(99),
}


@pytest.mark.parametrize("case", BROKEN)
def test_who_keeps_to_no_rule_leaves_nothing(case: str, receiver: Receiver, box: Box, tmp_path: Path) -> None:
    made = connected(receiver)
    with suppress(OSError):  # it may have ended it already
        made._connection.sendall(BROKEN[case])
        made._connection.shutdown(socket.SHUT_WR)
    with pytest.raises(Broken):
        made.receive()
    made.abort()
    other = connected(receiver)
    assert store(other, DATA) == 0x0000  # the others are served all the same
    other.release()
    assert [content(one) for one in box.close()] == [DATA]
    assert len(list((tmp_path / "out").iterdir())) == 1


def recorded(receiver: Any) -> bytes:
    """The bytes of an association in which an image is sent."""
    said = bytearray()

    class Recorder(socket.socket):
        def sendall(self, data: Any, *flags: int) -> None:  # type: ignore[override]
            said.extend(data)
            super().sendall(data)

    recorder = Recorder()
    recorder.settimeout(5)
    recorder.connect(("127.0.0.1", receiver.port))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_connection", lambda *words, **more: recorder)
        made = connected(receiver)
        assert store(made, DATA) == 0
        made.release()
    return bytes(said)


def test_damaged_associations_break_nothing(receiver: Any, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    said, chance = recorded(receiver), random.Random(0)
    for _ in range(300):
        damaged = bytearray(said)
        for _ in range(chance.choice((1, 2, 8))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        connection = socket.create_connection(("127.0.0.1", receiver.port), timeout=5)
        with connection, suppress(OSError):  # it may have ended it already
            connection.sendall(damaged[: chance.choice((len(damaged), chance.randrange(len(damaged))))])
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
    assert not failed
    made = connected(receiver)
    assert store(made, DATA) == 0
    made.release()
    assert all(one.is_file() for one in box.close())


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
    for _ in range(100):
        if not made.stands():
            break
        time.sleep(0.05)
    assert not made.stands()
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


def test_the_port_is_free_when_it_is_closed(receiver: Any) -> None:
    made = connected(receiver)
    receiver.close()
    with pytest.raises(Broken):
        made.receive()
    made.abort()
    with closing(Receiver(receiver.port, [CT], 5.0)):
        pass


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


def many(receiver: Any, count: int, do: Callable[[], None]) -> list[BaseException]:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            do()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    return failed


def test_many_may_send_at_a_time(receiver: Any, box: Box) -> None:
    """More than are served at once; the others wait."""

    def send() -> None:
        made = connected(receiver)
        for _ in range(5):
            assert store(made, DATA * 50) == 0
        made.release()

    assert not many(receiver, 15, send)
    came = box.close()
    assert len(set(came)) == 75
    assert all(content(one) == DATA * 50 for one in came)


def test_all_transfer_syntaxes_fit_in_a_context() -> None:
    assert len(coding.context(1, CT, AllTransferSyntaxes)) < 1 << 16

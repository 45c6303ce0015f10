"""Messages may be cut into pieces anyhow; those that keep to no rule leave nothing and break nothing."""

from __future__ import annotations

import random
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import AllTransferSyntaxes

from monai_rd.integrations.archives import pdu as coding
from monai_rd.integrations.archives.pdu import Broken
from monai_rd.integrations.archives.receiving import Box, Receiver
from monai_rd.walk import walk
from tests.integrations.archives.associations import COMMAND, CT, DATA, connected, content, pdu, piece, store
from tests.waiting import wait_for


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
    whole = box.close()
    assert [content(one) for one in whole] == [DATA]
    assert walk(tmp_path / "out").files == whole  # for a reader what is unfinished is not there
    receiver.close()
    wait_for(lambda: list((tmp_path / "out").iterdir()) == whole, seconds=5)  # its thread may still be at it


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


def test_all_transfer_syntaxes_fit_in_a_context() -> None:
    assert len(coding.context(1, CT, AllTransferSyntaxes)) < 1 << 16

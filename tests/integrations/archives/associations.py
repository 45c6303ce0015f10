"""Associations with a receiver of ours, and the pieces of which their messages are made."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from monai_rd.integrations.archives import pdu as coding
from monai_rd.integrations.archives import receiving
from monai_rd.integrations.archives.association import Association, Proposed, request

WAITS = (5.0, 5.0, 5.0)
CT = str(CTImageStorage)
EXPLICIT = str(ExplicitVRLittleEndian)


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

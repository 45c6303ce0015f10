"""Bytes of the classic DICOM network: PDUs (PS3.8 section 9.3) and the commands in them (PS3.7 chapter 6)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

# Elements of a command, of group 0000 (PS3.7 annex E).
LENGTH, KIND, FIELD, NUMBER, ANSWERED = 0x0000, 0x0002, 0x0100, 0x0110, 0x0120
DESTINATION, PRIORITY, DATA, STATUS, UID = 0x0600, 0x0700, 0x0800, 0x0900, 0x1000
NO_DATA, SOME_DATA = 0x0101, 0x0001
ANSWER = 0x8000  # a bit of FIELD

REQUEST, ACCEPT, REJECT, PIECES, RELEASE, RELEASED, ABORT = range(1, 8)  # kinds of PDUs
NOTHING = bytes(4)  # what a release and an abort hold
_APPLICATION = b"1.2.840.10008.3.1.1.1"
_OURS = str(PYDICOM_IMPLEMENTATION_UID).encode()
LARGEST = 128 << 10  # bytes of a PDU that we like to be sent: DCMTK's most
LARGEST_AGREEMENT = 1 << 20  # bytes


class Broken(Exception):
    """The connection has ended, or what came over it is no DICOM.

    Args:
        message: what happened, in words of ours.
        silent: nothing came for as long as was to be waited.
    """

    def __init__(self, message: str, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


def agreement(titles: bytes, contexts: Sequence[bytes], to_us: Sequence[str]) -> bytes:
    """What a request for an association holds, and the answer to one."""
    about = item(0x51, struct.pack(">L", LARGEST)) + item(0x52, _OURS)
    for kind in to_us:  # the role of a provider
        about += item(0x54, struct.pack(">H", len(kind)) + kind.encode() + b"\0\1")
    items = item(0x10, _APPLICATION) + b"".join(contexts) + item(0x50, about)
    return b"\0\1\0\0" + titles + bytes(32) + items


def context(number: int, kind: str, syntaxes: Sequence[str]) -> bytes:
    """A presentation context that is asked for: its number, a SOP class, and transfer syntaxes to choose of."""
    return bytes((number, 0, 0, 0)) + b"".join(
        (item(0x30, kind.encode()), *(item(0x40, one.encode()) for one in syntaxes))
    )


def largest(items: bytes) -> int:
    """The largest PDU that the other side takes, 0 where it does not say."""
    for item in items_of(items, 0x50):
        for value in items_of(item, 0x51):
            return int(struct.unpack(">L", value)[0])
    return 0


def item(kind: int, value: bytes) -> bytes:
    """An item of an agreement (PS3.8 section 9.3.2)."""
    return struct.pack(">BxH", kind, len(value)) + value


def items_of(items: bytes, wanted: int) -> Iterator[bytes]:
    """The values of all items of a kind.

    Raises:
        struct.error: cut off.
    """
    at = 0
    while at < len(items):
        kind, length = struct.unpack_from(">BxH", items, at)
        if at + 4 + length > len(items):
            raise struct.error("cut off")
        if kind == wanted:
            yield items[at + 4 : at + 4 + length]
        at += 4 + length


def text(value: bytes) -> str:
    """A UID or a title without its padding."""
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def framed(kind: int, body: bytes) -> bytes:
    """A whole PDU."""
    return struct.pack(">BxL", kind, len(body)) + body


def pieces(context: int, control: int, message: bytes, size: int) -> Iterator[bytes]:
    """A command or its data as PDUs of one piece each, nothing for nothing."""
    for at in range(0, len(message), size):
        piece = message[at : at + size]
        last = 2 if at + size >= len(message) else 0
        yield framed(PIECES, struct.pack(">LBB", len(piece) + 2, context, control | last) + piece)


def command(values: Mapping[int, int | str]) -> bytes:
    """A command (PS3.7 section 6.3)."""
    coded = bytearray()
    for element, value in sorted(values.items()):
        if isinstance(value, int):
            data = struct.pack("<H", value)
        else:
            data = value.encode("ascii") + (b" " if element == DESTINATION else b"\0") * (len(value) % 2)
        coded += struct.pack("<HHL", 0, element, len(data)) + data
    return struct.pack("<HHLL", 0, LENGTH, 4, len(coded)) + bytes(coded)


def elements(command: bytes) -> dict[int, bytes]:
    """The elements of a command, undecoded.

    Raises:
        Broken: it is damaged.
    """
    found: dict[int, bytes] = {}
    at = 0
    while at < len(command):
        if len(command) - at < 8:
            raise Broken("a command is cut off")
        group, element, length = struct.unpack_from("<HHL", command, at)
        if group or at + 8 + length > len(command):
            raise Broken("a command is damaged")
        found[element] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def whole(connection: socket.socket) -> tuple[int, bytes]:
    """A PDU of those that make an association."""
    kind, length = header(connection)
    if length > LARGEST_AGREEMENT:
        raise Broken("what came is no DICOM")
    return kind, exactly(connection, length)


def header(connection: socket.socket) -> tuple[int, int]:
    """Kind and length of the next PDU."""
    kind, length = struct.unpack(">BxL", exactly(connection, 6))
    if hasattr(socket, "TCP_QUICKACK"):  # Linux; the system forgets about it with each packet
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return kind, length


def exactly(connection: socket.socket, count: int) -> bytes:
    """The next bytes, so many.

    Raises:
        Broken: the connection ends before.
    """
    data = bytearray(count)
    at = 0
    while at < count:
        at += into(connection, memoryview(data)[at:])
    return bytes(data)


def into(connection: socket.socket, view: memoryview) -> int:
    """Read what has come, a byte at least."""
    try:
        count = connection.recv_into(view)
    except OSError as error:
        raise broken(error) from None
    if not count:
        raise Broken("the connection has ended")
    return count


def broken(error: OSError) -> Broken:
    """What an error of a connection means."""
    return Broken("the connection broke", silent=isinstance(error, TimeoutError))

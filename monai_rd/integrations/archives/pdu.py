"""Encoding and decoding of DIMSE: PDUs (PS3.8 section 9.3) and the commands in them (PS3.7 chapter 6)."""

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
NOTHING = bytes(4)  # the content of a release and of an abort
_APPLICATION = b"1.2.840.10008.3.1.1.1"
_OURS = str(PYDICOM_IMPLEMENTATION_UID).encode()
LARGEST = 128 << 10  # bytes of the largest PDU that we accept: DCMTK's maximum
LARGEST_AGREEMENT = 1 << 20  # bytes


class Broken(Exception):
    """The connection has ended, or the received data are not DICOM.

    Args:
        message: what happened, in our own words.
        silent: whether a timeout has passed without data.
    """

    def __init__(self, message: str, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


def agreement(titles: bytes, contexts: Sequence[bytes], to_us: Sequence[str]) -> bytes:
    """Encode the content of an association request or acceptance."""
    about = item(0x51, struct.pack(">L", LARGEST)) + item(0x52, _OURS)
    for kind in to_us:  # the role of a provider
        about += item(0x54, struct.pack(">H", len(kind)) + kind.encode() + b"\0\1")
    items = item(0x10, _APPLICATION) + b"".join(contexts) + item(0x50, about)
    return b"\0\1\0\0" + titles + bytes(32) + items


def context(number: int, kind: str, syntaxes: Sequence[str]) -> bytes:
    """Encode a proposed presentation context: its number, a SOP class, and the transfer syntaxes to choose from."""
    return bytes((number, 0, 0, 0)) + b"".join(
        (item(0x30, kind.encode()), *(item(0x40, one.encode()) for one in syntaxes))
    )


def largest(items: bytes) -> int:
    """Return the largest PDU that the other side accepts, in bytes; 0 if it does not say."""
    for item in items_of(items, 0x50):
        for value in items_of(item, 0x51):
            return int(struct.unpack(">L", value)[0])
    return 0


def item(kind: int, value: bytes) -> bytes:
    """Encode an item of an association request or acceptance (PS3.8 section 9.3.2)."""
    return struct.pack(">BxH", kind, len(value)) + value


def items_of(items: bytes, wanted: int) -> Iterator[bytes]:
    """Yield the values of all items of a type.

    Raises:
        struct.error: the data are truncated.
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
    """Decode a UID or a title without its padding."""
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def framed(kind: int, body: bytes) -> bytes:
    """Encode a whole PDU."""
    return struct.pack(">BxL", kind, len(body)) + body


def pieces(context: int, control: int, message: bytes, size: int) -> Iterator[bytes]:
    """Yield a command or data set as PDUs of one piece each; none for an empty message."""
    for at in range(0, len(message), size):
        piece = message[at : at + size]
        last = 2 if at + size >= len(message) else 0
        yield framed(PIECES, struct.pack(">LBB", len(piece) + 2, context, control | last) + piece)


def command(values: Mapping[int, int | str]) -> bytes:
    """Encode a command (PS3.7 section 6.3)."""
    coded = bytearray()
    for element, value in sorted(values.items()):
        if isinstance(value, int):
            data = struct.pack("<H", value)
        else:
            data = value.encode("ascii") + (b" " if element == DESTINATION else b"\0") * (len(value) % 2)
        coded += struct.pack("<HHL", 0, element, len(data)) + data
    return struct.pack("<HHLL", 0, LENGTH, 4, len(coded)) + bytes(coded)


def elements(command: bytes) -> dict[int, bytes]:
    """Split a command into its elements, without decoding the values.

    Raises:
        Broken: the command is damaged.
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
    """Read a whole PDU during the negotiation of an association."""
    kind, length = header(connection)
    if length > LARGEST_AGREEMENT:
        raise Broken("what came is no DICOM")
    return kind, exactly(connection, length)


def header(connection: socket.socket) -> tuple[int, int]:
    """Read the type and length of the next PDU."""
    kind, length = struct.unpack(">BxL", exactly(connection, 6))
    if hasattr(socket, "TCP_QUICKACK"):  # Linux only; the option is not permanent and must be set again
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return kind, length


def exactly(connection: socket.socket, count: int) -> bytes:
    """Read exactly `count` bytes.

    Raises:
        Broken: the connection ends before that.
    """
    data = bytearray(count)
    at = 0
    while at < count:
        at += into(connection, memoryview(data)[at:])
    return bytes(data)


def into(connection: socket.socket, view: memoryview) -> int:
    """Read the available data into a buffer, at least one byte, and return the number of bytes."""
    try:
        count = connection.recv_into(view)
    except OSError as error:
        raise broken(error) from None
    if not count:
        raise Broken("the connection has ended")
    return count


def broken(error: OSError) -> Broken:
    """Convert an error of a socket."""
    return Broken("the connection broke", silent=isinstance(error, TimeoutError))

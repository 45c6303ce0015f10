"""Associations of the classic DICOM network (PS3.8) and the messages on them (PS3.7 chapter 9), over plain sockets.

Whoever asks also reads what comes, in one thread, and an image passes in pieces, never whole: no queue, no second
thread that looks for messages, nothing decoded that is not used. With pynetdicom, which works out each message as a
data set, an image took milliseconds more than its bytes, and fetching up to four times as long as by DICOMweb.

Connections send and acknowledge at once: a message goes in several pieces, and each of them would wait 40 ms for what
the other side holds back (RFC 896, RFC 1122 section 4.2.3.2).
"""

from __future__ import annotations

import re
import selectors
import socket
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, ImplicitVRLittleEndian

__all__ = [
    "ANSWER",
    "ANSWERED",
    "DESTINATION",
    "FIELD",
    "KIND",
    "STATUS",
    "UID",
    "Association",
    "Broken",
    "Message",
    "Proposed",
    "Rejected",
    "accept",
    "request",
]

# Elements of a command, of group 0000 (PS3.7 annex E).
_LENGTH, KIND, FIELD, _NUMBER, ANSWERED = 0x0000, 0x0002, 0x0100, 0x0110, 0x0120
DESTINATION, _PRIORITY, _DATA, STATUS, UID = 0x0600, 0x0700, 0x0800, 0x0900, 0x1000
_NO_DATA, _SOME_DATA = 0x0101, 0x0001
ANSWER = 0x8000  # a bit of FIELD

_REQUEST, _ACCEPT, _REJECT, _PIECES, _RELEASE, _RELEASED, _ABORT = range(1, 8)  # kinds of PDUs
_NOTHING = bytes(4)  # what a release and an abort hold
_APPLICATION = b"1.2.840.10008.3.1.1.1"
_OURS = str(PYDICOM_IMPLEMENTATION_UID).encode()
_LARGEST = 128 << 10  # bytes of a PDU that we like to be sent: DCMTK's most
_LARGEST_AGREEMENT, _LARGEST_COMMAND, _LARGEST_ANSWER = 1 << 20, 64 << 10, 64 << 20
_PARTING = 5.0  # s for the answer to a release
_UID = re.compile(r"[0-9A-Za-z._-]{1,64}")


class Broken(Exception):
    """The connection has ended, or what came over it is no DICOM.

    Args:
        message: what happened, in words of ours.
        silent: nothing came for as long as was to be waited.
    """

    def __init__(self, message: str, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class Rejected(Exception):
    """The other side does not want an association (PS3.8, table 9-21)."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(f"rejected: {result}, {source}, {reason}")
        self.result, self.source, self.reason = result, source, reason


@dataclass(frozen=True)
class Proposed:
    """What an association is wanted for.

    Args:
        kind: a SOP class.
        syntaxes: transfer syntaxes of which the other side may choose one.
        to_us: objects of it are sent by the other side, to us.
    """

    kind: str
    syntaxes: Sequence[str]
    to_us: bool = False


@dataclass(frozen=True)
class Message:
    """A command as it came; its data, if it has any, are still to be read.

    Args:
        context: number of the presentation context.
        command: elements of group 0000, undecoded.
    """

    context: int
    command: Mapping[int, bytes]

    @property
    def has_data(self) -> bool:
        """Whether `Association.data` has something to give."""
        return self.number(_DATA) != _NO_DATA

    def number(self, element: int) -> int:
        """An unsigned number of 16 bits.

        Raises:
            Broken: there is none.
        """
        value = self.command.get(element, b"")
        if len(value) != 2:
            raise Broken("a command lacks what it must have")
        return int.from_bytes(value, "little")

    def uid(self, element: int) -> str | None:
        """A UID, None where there is none that could be one."""
        value = self.command.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")
        return value if _UID.fullmatch(value) else None


class Association:
    """An association that was agreed to.

    Args:
        connection: of it; it is closed at the end.
        contexts: SOP class and transfer syntax of the presentation contexts that both sides accept, by number.
        largest: bytes of a PDU that the other side takes, 0 for any.

    Attributes:
        contexts: see `Args`.
    """

    def __init__(self, connection: socket.socket, contexts: Mapping[int, tuple[str, str]], largest: int) -> None:
        self._connection, self.contexts = connection, contexts
        self._piece = min(largest or _LARGEST, _LARGEST) - 6 & ~1  # each piece has an even number of bytes
        if self._piece <= 0:
            raise Broken("it takes messages in pieces of nothing")
        self._left = 0  # bytes of the PDU at hand
        self._asked = 0
        self._buffer = memoryview(bytearray(_LARGEST))

    def context_of(self, kind: str, syntax: str | None = None) -> int | None:
        """The context of a SOP class, and of a transfer syntax if one is given; None where the other side has none."""
        known = (number for number, (one, how) in self.contexts.items() if one == kind and syntax in (None, how))
        return next(known, None)

    def ask(self, context: int, field: int, values: Mapping[int, int | str], data: bytes) -> None:
        """Send a request with its data.

        Args:
            context: number of the presentation context.
            field: which request.
            values: further elements.
            data: coded as the context says.
        """
        self._asked = self._asked % 0xFFFF + 1
        head: dict[int, int | str] = {KIND: self.contexts[context][0], FIELD: field, _NUMBER: self._asked}
        self._send(context, _coded(head | {_PRIORITY: 0, _DATA: _SOME_DATA} | dict(values)), data)

    def answer(self, message: Message, status: int) -> None:
        """Answer a request without data."""
        values: dict[int, int | str] = {element: message.uid(element) or "" for element in (KIND, UID)}
        values |= {FIELD: message.number(FIELD) | ANSWER, ANSWERED: message.number(_NUMBER)}
        self._send(message.context, _coded(values | {_DATA: _NO_DATA, STATUS: status}), b"")

    def receive(self) -> Message:
        """Wait for the next message.

        Raises:
            Broken: there will be none; a wish to end the association was answered.
        """
        command = bytearray()
        context = last = None
        while not last:
            number, is_command, last, size = self._next_piece()
            if not is_command or context not in (None, number) or len(command) + size > _LARGEST_COMMAND:
                raise Broken("a message has no beginning")
            context = number
            command += self._exactly(size)
        assert context is not None
        if context not in self.contexts:
            raise Broken("a message is of a context that was not agreed to")
        return Message(context, _elements(bytes(command)))

    def data(self, message: Message) -> Iterator[memoryview]:
        """The data of the message that came last, in pieces, each of which is gone when the next one comes."""
        last = not message.has_data
        while not last:
            number, is_command, last, size = self._next_piece()
            if is_command or number != message.context:
                raise Broken("a message has no end")
            while size:
                count = self._into(self._buffer[: min(size, len(self._buffer))])
                size -= count
                yield self._buffer[:count]

    def whole_data(self, message: Message) -> bytes:
        """The data of the message that came last, which must be few."""
        data = bytearray()
        for piece in self.data(message):
            data += piece
            if len(data) > _LARGEST_ANSWER:
                raise Broken("an answer is too long")
        return bytes(data)

    def stands(self) -> bool:
        """Whether the other side has not ended it: between two requests it has nothing to say but that."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection, selectors.EVENT_READ)
                return not selector.select(0)
        except (OSError, ValueError):  # it is closed
            return False

    def release(self) -> None:
        """End it, in agreement with the other side if that agrees soon, or has wished so before us."""
        with suppress(OSError, Broken):
            self._connection.settimeout(_PARTING)
            asked = self.stands()
            if asked:
                self._connection.sendall(_pdu(_RELEASE, _NOTHING))
            kind = _RELEASE
            while kind == _RELEASE:
                kind, length = self._header()
                if kind == _RELEASE:
                    self._connection.sendall(_pdu(_RELEASED, _NOTHING))
                    if not asked:
                        break
                if kind != _PIECES:
                    self._exactly(length)
        self._connection.close()

    def abort(self) -> None:
        """End it at once. One that has ended stays so."""
        with suppress(OSError):
            self._connection.settimeout(0)  # whoever does not read is not waited for
            self._connection.sendall(_pdu(_ABORT, _NOTHING))
        self._connection.close()

    def _send(self, context: int, command: bytes, data: bytes) -> None:
        pdus = b"".join(_pieces(context, 1, command, self._piece)) + b"".join(_pieces(context, 0, data, self._piece))
        try:
            self._connection.sendall(pdus)
        except OSError as error:
            raise _broken(error) from None

    def _next_piece(self) -> tuple[int, bool, bool, int]:
        """Of the next piece of a message: its context, whether it is one of a command and the last one, its length."""
        if not self._left:
            kind, self._left = self._header()
            if kind == _RELEASE:
                self._exactly(self._left)
                with suppress(OSError):
                    self._connection.sendall(_pdu(_RELEASED, _NOTHING))
                self._connection.close()
            if kind != _PIECES:
                raise Broken("it has ended the association")
        if self._left < 6:
            raise Broken("a piece of a message has no beginning")
        size, context, control = struct.unpack(">LBB", self._exactly(6))
        self._left -= 4 + size
        if size < 2 or self._left < 0:
            raise Broken("a piece of a message has another length than it says")
        return context, bool(control & 1), bool(control & 2), size - 2

    def _header(self) -> tuple[int, int]:
        kind, length = _header(self._connection)
        if kind != _PIECES and length > _LARGEST_AGREEMENT:
            raise Broken("what came is no DICOM")
        return kind, length

    def _exactly(self, count: int) -> bytes:
        return _exactly(self._connection, count)

    def _into(self, view: memoryview) -> int:
        return _into(self._connection, view)


def request(
    place: tuple[str, int],
    titles: tuple[str, str],
    proposed: Sequence[Proposed],
    waits: tuple[float, float, float],
) -> Association:
    """Ask for an association; it may be one in which nothing that was proposed is accepted.

    Args:
        place: host and port.
        titles: the other side's AE title and ours.
        proposed: what it is for, 128 of it at most.
        waits: seconds for a connection, for the agreement, and for each answer later.

    Raises:
        OSError: no connection.
        Rejected: the other side does not want it.
        Broken: it answers something else, or nothing.
    """
    connection = socket.create_connection(place, timeout=waits[0])
    try:
        connection.settimeout(waits[1])
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        numbered = {2 * index + 1: one for index, one in enumerate(proposed)}
        items = [_item(0x20, _context(number, one.kind, one.syntaxes)) for number, one in numbered.items()]
        roles = {one.kind for one in proposed if one.to_us}
        head = b"".join(title.encode("ascii").ljust(16) for title in titles)
        try:
            connection.sendall(_pdu(_REQUEST, _agreement(head, items, sorted(roles))))
        except OSError as error:
            raise _broken(error) from None
        kind, body = _whole(connection)
        if kind == _REJECT and len(body) == 4:
            raise Rejected(body[1], body[2], body[3])
        if kind != _ACCEPT:
            raise Broken("it does not answer as it should")
        accepted: dict[int, tuple[str, str]] = {}
        for item in _all(body[68:], 0x21):
            number, result = item[0], item[2]
            syntax = next((_text(one) for one in _all(item[4:], 0x40)), "")
            if not result and number in numbered and syntax in numbered[number].syntaxes:
                accepted[number] = numbered[number].kind, syntax
        made = Association(connection, accepted, _largest(body[68:]))
        connection.settimeout(waits[2])
        return made
    except BaseException as error:
        connection.close()
        if isinstance(error, IndexError | struct.error):
            raise Broken("what came is no DICOM") from None
        raise


def accept(connection: socket.socket, kinds: Collection[str], syntaxes: Collection[str]) -> Association:
    """Agree to an association that the other side of a connection asks for.

    Args:
        connection: with a time limit.
        kinds: SOP classes whose objects may be sent to us.
        syntaxes: transfer syntaxes that we take; of those proposed the first one is chosen.

    Raises:
        Broken: what comes is no DICOM.
    """
    with suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    kind, body = _whole(connection)
    if kind != _REQUEST:
        raise Broken("what came is no wish for an association")
    accepted: dict[int, tuple[str, str]] = {}
    items = []
    try:
        for item in _all(body[68:], 0x20):
            wanted = next((_text(one) for one in _all(item[4:], 0x30)), "")
            offered = [_text(one) for one in _all(item[4:], 0x40)]
            syntax = next((one for one in offered if one in syntaxes), None)
            result = 3 if wanted not in kinds else 4 if syntax is None else 0
            if not result and syntax is not None:
                accepted[item[0]] = wanted, syntax
            chosen = _item(0x40, (syntax or ImplicitVRLittleEndian).encode())
            items.append(_item(0x21, bytes((item[0], 0, result, 0)) + chosen))
        made = Association(connection, accepted, _largest(body[68:]))
        connection.sendall(_pdu(_ACCEPT, _agreement(body[4:36], items, ())))
    except (IndexError, struct.error):
        raise Broken("what came is no DICOM") from None
    except OSError as error:
        raise _broken(error) from None
    return made


def _agreement(titles: bytes, contexts: Sequence[bytes], to_us: Sequence[str]) -> bytes:
    """What a request for an association holds, and the answer to one."""
    about = _item(0x51, struct.pack(">L", _LARGEST)) + _item(0x52, _OURS)
    for kind in to_us:  # the role of a provider
        about += _item(0x54, struct.pack(">H", len(kind)) + kind.encode() + b"\0\1")
    items = _item(0x10, _APPLICATION) + b"".join(contexts) + _item(0x50, about)
    return b"\0\1\0\0" + titles + bytes(32) + items


def _context(number: int, kind: str, syntaxes: Sequence[str]) -> bytes:
    return bytes((number, 0, 0, 0)) + b"".join(
        (_item(0x30, kind.encode()), *(_item(0x40, one.encode()) for one in syntaxes))
    )


def _largest(items: bytes) -> int:
    """The largest PDU that the other side takes, 0 where it does not say."""
    for item in _all(items, 0x50):
        for value in _all(item, 0x51):
            return int(struct.unpack(">L", value)[0])
    return 0


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _all(items: bytes, wanted: int) -> Iterator[bytes]:
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


def _text(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def _pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxL", kind, len(body)) + body


def _pieces(context: int, control: int, message: bytes, size: int) -> Iterator[bytes]:
    """A command or its data as PDUs of one piece each, nothing for nothing."""
    for at in range(0, len(message), size):
        piece = message[at : at + size]
        last = 2 if at + size >= len(message) else 0
        yield _pdu(_PIECES, struct.pack(">LBB", len(piece) + 2, context, control | last) + piece)


def _coded(values: Mapping[int, int | str]) -> bytes:
    """A command (PS3.7 section 6.3)."""
    coded = bytearray()
    for element, value in sorted(values.items()):
        if isinstance(value, int):
            data = struct.pack("<H", value)
        else:
            data = value.encode("ascii") + (b" " if element == DESTINATION else b"\0") * (len(value) % 2)
        coded += struct.pack("<HHL", 0, element, len(data)) + data
    return struct.pack("<HHLL", 0, _LENGTH, 4, len(coded)) + bytes(coded)


def _elements(command: bytes) -> dict[int, bytes]:
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


def _whole(connection: socket.socket) -> tuple[int, bytes]:
    """A PDU of those that make an association."""
    kind, length = _header(connection)
    if length > _LARGEST_AGREEMENT:
        raise Broken("what came is no DICOM")
    return kind, _exactly(connection, length)


def _header(connection: socket.socket) -> tuple[int, int]:
    """Kind and length of the next PDU."""
    kind, length = struct.unpack(">BxL", _exactly(connection, 6))
    if hasattr(socket, "TCP_QUICKACK"):  # Linux; the system forgets about it with each packet
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return kind, length


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    at = 0
    while at < count:
        at += _into(connection, memoryview(data)[at:])
    return bytes(data)


def _into(connection: socket.socket, view: memoryview) -> int:
    """Read what has come, a byte at least."""
    try:
        count = connection.recv_into(view)
    except OSError as error:
        raise _broken(error) from None
    if not count:
        raise Broken("the connection has ended")
    return count


def _broken(error: OSError) -> Broken:
    return Broken("the connection broke", silent=isinstance(error, TimeoutError))

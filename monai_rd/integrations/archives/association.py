"""DIMSE associations (PS3.8) and the messages on them (PS3.7 chapter 9), over plain sockets.

One thread sends requests and reads the answers, and images are passed on in pieces, never held as a whole: there is no
queue, no reader thread, and nothing is decoded that is not used. With pynetdicom, which decodes each message to a data
set, an image took milliseconds longer than the transfer of its bytes, and fetching took up to four times as long as
with DICOMweb.

Connections send and acknowledge without delay (TCP_NODELAY, quick ACK): a message consists of several pieces, and each
would otherwise wait 40 ms for a delayed acknowledgement (RFC 896, RFC 1122 section 4.2.3.2).
"""

from __future__ import annotations

import re
import selectors
import socket
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydicom.uid import ImplicitVRLittleEndian

from monai_rd.integrations.archives import pdu
from monai_rd.integrations.archives.pdu import Broken

__all__ = ["Association", "Message", "Proposed", "Rejected", "accept", "request"]

_LARGEST_COMMAND, _LARGEST_ANSWER = 64 << 10, 64 << 20  # bytes
_PARTING = 5.0  # seconds to wait for the answer to a release
_UID = re.compile(r"[0-9A-Za-z._-]{1,64}")


class Rejected(Exception):
    """The other side has rejected the association (PS3.8, table 9-21)."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(f"rejected: {result}, {source}, {reason}")
        self.result, self.source, self.reason = result, source, reason


@dataclass(frozen=True)
class Proposed:
    """A proposed presentation context.

    Args:
        kind: a SOP class.
        syntaxes: transfer syntaxes from which the other side chooses one.
        to_us: whether the other side sends objects of this class to us.
    """

    kind: str
    syntaxes: Sequence[str]
    to_us: bool = False


@dataclass(frozen=True)
class Message:
    """A received command; its data set, if it has one, is still to be read.

    Args:
        context: number of the presentation context.
        command: elements of group 0000, not decoded.
    """

    context: int
    command: Mapping[int, bytes]

    @property
    def has_data(self) -> bool:
        """Whether a data set follows, to be read by `Association.data`."""
        return self.number(pdu.DATA) != pdu.NO_DATA

    def number(self, element: int) -> int:
        """Return an element as an unsigned 16-bit number.

        Raises:
            Broken: the element is missing or invalid.
        """
        value = self.command.get(element, b"")
        if len(value) != 2:
            raise Broken("a command lacks what it must have")
        return int.from_bytes(value, "little")

    def uid(self, element: int) -> str | None:
        """Return an element as a UID, None if it is missing or invalid."""
        value = self.command.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")
        return value if _UID.fullmatch(value) else None


class Association:
    """An established association.

    Args:
        connection: its socket, which is closed at the end.
        contexts: SOP class and transfer syntax of the accepted presentation contexts, by number.
        largest: largest PDU that the other side accepts, in bytes; 0 for no limit.

    Attributes:
        contexts: see `Args`.
    """

    def __init__(self, connection: socket.socket, contexts: Mapping[int, tuple[str, str]], largest: int) -> None:
        self._connection, self.contexts = connection, contexts
        self._piece = min(largest or pdu.LARGEST, pdu.LARGEST) - 6 & ~1  # each piece has an even number of bytes
        if self._piece <= 0:
            raise Broken("it takes messages in pieces of nothing")
        self._left = 0  # bytes left of the current PDU
        self._asked = 0
        self._buffer = memoryview(bytearray(pdu.LARGEST))

    def context_of(self, kind: str, syntax: str | None = None) -> int | None:
        """Return the context of a SOP class, and of a transfer syntax if given; None if there is none."""
        known = (number for number, (one, how) in self.contexts.items() if one == kind and syntax in (None, how))
        return next(known, None)

    def ask(self, context: int, field: int, values: Mapping[int, int | str], data: bytes) -> None:
        """Send a request with its data set.

        Args:
            context: number of the presentation context.
            field: the command field.
            values: further elements of the command.
            data: the data set, encoded in the context's transfer syntax.
        """
        self._asked = self._asked % 0xFFFF + 1
        head: dict[int, int | str] = {pdu.KIND: self.contexts[context][0], pdu.FIELD: field, pdu.NUMBER: self._asked}
        self._send(context, pdu.command(head | {pdu.PRIORITY: 0, pdu.DATA: pdu.SOME_DATA} | dict(values)), data)

    def answer(self, message: Message, status: int) -> None:
        """Send a response without a data set."""
        values: dict[int, int | str] = {element: message.uid(element) or "" for element in (pdu.KIND, pdu.UID)}
        values |= {pdu.FIELD: message.number(pdu.FIELD) | pdu.ANSWER, pdu.ANSWERED: message.number(pdu.NUMBER)}
        self._send(message.context, pdu.command(values | {pdu.DATA: pdu.NO_DATA, pdu.STATUS: status}), b"")

    def receive(self) -> Message:
        """Wait for the next message.

        Raises:
            Broken: there will be no further message; a request to release the association was answered.
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
        return Message(context, pdu.elements(bytes(command)))

    def data(self, message: Message) -> Iterator[memoryview]:
        """Yield the data set of the last message in pieces; a piece is valid only until the next one is read."""
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
        """Return the data set of the last message as a whole; it must be small."""
        data = bytearray()
        for piece in self.data(message):
            data += piece
            if len(data) > _LARGEST_ANSWER:
                raise Broken("an answer is too long")
        return bytes(data)

    def stands(self) -> bool:
        """Whether the association is still open: between requests the other side sends nothing except its end."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection, selectors.EVENT_READ)
                return not selector.select(0)
        except (OSError, ValueError):  # the socket is closed
            return False

    def release(self) -> None:
        """Release the association: waits briefly for the other side's agreement, unless that has asked for it first."""
        with suppress(OSError, Broken):
            self._connection.settimeout(_PARTING)
            asked = self.stands()
            if asked:
                self._connection.sendall(pdu.framed(pdu.RELEASE, pdu.NOTHING))
            kind = pdu.RELEASE
            while kind == pdu.RELEASE:
                kind, length = self._header()
                if kind == pdu.RELEASE:
                    self._connection.sendall(pdu.framed(pdu.RELEASED, pdu.NOTHING))
                    if not asked:
                        break
                if kind != pdu.PIECES:
                    self._exactly(length)
        self._connection.close()

    def abort(self) -> None:
        """Abort the association; does nothing if it has ended already."""
        with suppress(OSError):
            self._connection.settimeout(0)  # does not wait for a side that does not read
            self._connection.sendall(pdu.framed(pdu.ABORT, pdu.NOTHING))
        self._connection.close()

    def _send(self, context: int, command: bytes, data: bytes) -> None:
        sent = [*pdu.pieces(context, 1, command, self._piece), *pdu.pieces(context, 0, data, self._piece)]
        try:
            self._connection.sendall(b"".join(sent))
        except OSError as error:
            raise pdu.broken(error) from None

    def _next_piece(self) -> tuple[int, bool, bool, int]:
        """Read the head of the next piece: context, whether it is of a command, whether it is the last, length."""
        if not self._left:
            kind, self._left = self._header()
            if kind == pdu.RELEASE:
                self._exactly(self._left)
                with suppress(OSError):
                    self._connection.sendall(pdu.framed(pdu.RELEASED, pdu.NOTHING))
                self._connection.close()
            if kind != pdu.PIECES:
                raise Broken("it has ended the association")
        if self._left < 6:
            raise Broken("a piece of a message has no beginning")
        size, context, control = struct.unpack(">LBB", self._exactly(6))
        self._left -= 4 + size
        if size < 2 or self._left < 0:
            raise Broken("a piece of a message has another length than it says")
        return context, bool(control & 1), bool(control & 2), size - 2

    def _header(self) -> tuple[int, int]:
        kind, length = pdu.header(self._connection)
        if kind != pdu.PIECES and length > pdu.LARGEST_AGREEMENT:
            raise Broken("what came is no DICOM")
        return kind, length

    def _exactly(self, count: int) -> bytes:
        return pdu.exactly(self._connection, count)

    def _into(self, view: memoryview) -> int:
        return pdu.into(self._connection, view)


def request(
    place: tuple[str, int],
    titles: tuple[str, str],
    proposed: Sequence[Proposed],
    waits: tuple[float, float, float],
) -> Association:
    """Request an association; the other side may accept it without accepting any proposed context.

    Args:
        place: host and port.
        titles: the other side's AE title and ours.
        proposed: the proposed contexts, at most 128.
        waits: time limits in seconds for the connection, for the negotiation, and for each later answer.

    Raises:
        OSError: no connection.
        Rejected: the other side rejects the association.
        Broken: the other side gives no or an invalid answer.
    """
    connection = socket.create_connection(place, timeout=waits[0])
    try:
        connection.settimeout(waits[1])
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        numbered = {2 * index + 1: one for index, one in enumerate(proposed)}
        items = [pdu.item(0x20, pdu.context(number, one.kind, one.syntaxes)) for number, one in numbered.items()]
        roles = {one.kind for one in proposed if one.to_us}
        head = b"".join(title.encode("ascii").ljust(16) for title in titles)
        try:
            connection.sendall(pdu.framed(pdu.REQUEST, pdu.agreement(head, items, sorted(roles))))
        except OSError as error:
            raise pdu.broken(error) from None
        kind, body = pdu.whole(connection)
        if kind == pdu.REJECT and len(body) == 4:
            raise Rejected(body[1], body[2], body[3])
        if kind != pdu.ACCEPT:
            raise Broken("it does not answer as it should")
        accepted: dict[int, tuple[str, str]] = {}
        for item in pdu.items_of(body[68:], 0x21):
            number, result = item[0], item[2]
            syntax = next((pdu.text(one) for one in pdu.items_of(item[4:], 0x40)), "")
            if not result and number in numbered and syntax in numbered[number].syntaxes:
                accepted[number] = numbered[number].kind, syntax
        made = Association(connection, accepted, pdu.largest(body[68:]))
        connection.settimeout(waits[2])
        return made
    except BaseException as error:
        connection.close()
        if isinstance(error, IndexError | struct.error):
            raise Broken("what came is no DICOM") from None
        raise


def accept(connection: socket.socket, kinds: Collection[str], syntaxes: Collection[str]) -> Association:
    """Accept an association that the other side of a connection requests.

    Args:
        connection: the socket, with a timeout.
        kinds: SOP classes whose objects may be sent to us.
        syntaxes: transfer syntaxes that we accept; the first of the proposed ones is chosen.

    Raises:
        Broken: the received data are not DICOM.
    """
    with suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    kind, body = pdu.whole(connection)
    if kind != pdu.REQUEST:
        raise Broken("what came is no wish for an association")
    accepted: dict[int, tuple[str, str]] = {}
    items = []
    try:
        for item in pdu.items_of(body[68:], 0x20):
            wanted = next((pdu.text(one) for one in pdu.items_of(item[4:], 0x30)), "")
            offered = [pdu.text(one) for one in pdu.items_of(item[4:], 0x40)]
            syntax = next((one for one in offered if one in syntaxes), None)
            result = 3 if wanted not in kinds else 4 if syntax is None else 0
            if not result and syntax is not None:
                accepted[item[0]] = wanted, syntax
            chosen = pdu.item(0x40, (syntax or ImplicitVRLittleEndian).encode())
            items.append(pdu.item(0x21, bytes((item[0], 0, result, 0)) + chosen))
        made = Association(connection, accepted, pdu.largest(body[68:]))
        connection.sendall(pdu.framed(pdu.ACCEPT, pdu.agreement(body[4:36], items, ())))
    except (IndexError, struct.error):
        raise Broken("what came is no DICOM") from None
    except OSError as error:
        raise pdu.broken(error) from None
    return made

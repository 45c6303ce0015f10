"""Images that an archive of the classic DICOM network sends to us: into files as they come, and the port for C-MOVE."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, AllTransferSyntaxes

from monai_rd.integrations.archives.association import Association, Message, accept
from monai_rd.integrations.archives.pdu import FIELD, KIND, UID, Broken

__all__ = ["STORE", "Box", "Receiver", "take"]

STORE = 0x0001  # FIELD of C-STORE
_MOST_IMAGES, _LARGEST_SERIES = 100_000, 32 << 30  # of one series, in bytes
_TAKEN, _NO_ROOM, _NO_IMAGE = 0x0000, 0xA700, 0xC000  # status
_MOST_SENDERS = 10  # associations at a time
_LOOKING = 0.2  # s in which the port is closed


class Box:
    """A folder that images of one series go to, from any number of associations, until it is closed.

    Args:
        folder: which may hold files already.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._first = folder, len(list(folder.iterdir()))
        self._begun = self._size = 0
        self._files: list[Path] = []
        self._open = True
        self._lock = threading.Lock()

    def close(self) -> list[Path]:
        """Take no more; returns the files of the images that came whole."""
        with self._lock:
            self._open = False
            return self._files

    def write(self, meta: bytes, pieces: Iterator[memoryview]) -> bool:
        """Write an image as it comes; returns whether it is there, as a whole.

        Args:
            meta: what its file begins with.
            pieces: of its data set, of which some may be left.
        """
        with self._lock:
            number = self._begun
            self._begun += 1
        file = self._folder / f"{self._first + number:06d}.dcm"  # what comes from outside names no file
        made = whole = False
        try:
            if number < _MOST_IMAGES and self._has_room(len(meta)):
                with open(file, "xb") as out:
                    made = True
                    out.write(meta)
                    whole = all(self._has_room(len(piece)) and out.write(piece) for piece in pieces)
                with self._lock:
                    whole = whole and self._open
                    self._files += [file] if whole else []
        except OSError:  # the disk's: a connection that breaks is `Broken`
            whole = False
        finally:
            if made and not whole:
                with suppress(OSError):
                    file.unlink()
        return whole

    def _has_room(self, more: int) -> bool:
        with self._lock:
            self._size += more
            return self._open and self._size <= _LARGEST_SERIES


def take(association: Association, message: Message, box: Box | None) -> None:
    """Take the image that a C-STORE brings, as it comes, and answer.

    Args:
        association: over which it comes.
        message: the C-STORE.
        box: where it goes; None refuses it.
    """
    kind, uid, pieces = message.uid(KIND), message.uid(UID), association.data(message)
    status = _NO_ROOM
    if not (kind and uid and message.has_data):
        status = _NO_IMAGE
    elif box is not None and box.write(_file_meta(kind, uid, association.contexts[message.context][1]), pieces):
        status = _TAKEN
    for _ in pieces:
        pass  # of an image that is not taken
    association.answer(message, status)


class Receiver:
    """A port at which images are taken, from anybody, while `box` is one.

    Args:
        port: of this machine, at all its addresses.
        kinds: SOP classes that are taken.
        timeout: seconds without a byte after which a connection is ended.

    Raises:
        OSError: something else listens at the port.

    Attributes:
        box: where images go; None refuses them.
    """

    def __init__(self, port: int, kinds: Collection[str], timeout: float) -> None:
        self.box: Box | None = None
        self._kinds, self._timeout = frozenset(kinds), timeout
        self._syntaxes = frozenset(map(str, AllTransferSyntaxes))
        self._listener = socket.create_server(("", port))
        self._listener.settimeout(_LOOKING)
        self._ended = threading.Event()
        self._free = threading.Semaphore(_MOST_SENDERS)
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Close the port and all connections, soon."""
        self._ended.set()

    def close(self) -> None:
        """Close the port and all connections, and wait until they are."""
        self.end()
        self._thread.join()

    def _listen(self) -> None:
        with self._listener:
            while not self._ended.is_set():
                if not self._free.acquire(timeout=_LOOKING):
                    continue
                try:
                    connection = self._listener.accept()[0]
                except OSError:  # nobody came, or has gone again
                    self._free.release()
                    continue
                self._connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket) -> None:
        association = None
        try:
            connection.settimeout(self._timeout)
            association = accept(connection, self._kinds, self._syntaxes)
            while True:
                message = association.receive()
                if message.number(FIELD) != STORE:
                    raise Broken("something else than an image came")
                take(association, message, self.box)
        except Broken:
            if association is not None:
                association.abort()
        finally:
            connection.close()
            self._connections.discard(connection)
            self._free.release()


def _file_meta(kind: str, uid: str, syntax: str) -> bytes:
    """What a file has before its data set (PS3.10 section 7.1)."""
    values = ((0x0002, kind), (0x0003, uid), (0x0010, syntax), (0x0012, str(PYDICOM_IMPLEMENTATION_UID)))
    coded = struct.pack("<HH2sHL2s", 2, 1, b"OB", 0, 2, b"\0\1")
    for element, value in values:
        data = value.encode("ascii") + b"\0" * (len(value) % 2)
        coded += struct.pack("<HH2sH", 2, element, b"UI", len(data)) + data
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(coded)) + coded

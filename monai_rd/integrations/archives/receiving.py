"""Receiving images that a DIMSE archive sends: streaming them to files, and the port for C-MOVE."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    AllTransferSyntaxes,
    BreastTomosynthesisImageStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DermoscopicPhotographyImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    VLPhotographicImageStorage,
)

from monai_rd.integrations.archives.association import Association, Message, accept
from monai_rd.integrations.archives.pdu import FIELD, KIND, UID, Broken

__all__ = ["IMAGES", "STORE", "Box", "Receiver", "take"]

# The SOP classes that the bundles read. An association has at most 128 contexts, so not all classes can be listed.
IMAGES = (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MRImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForPresentation,
    BreastTomosynthesisImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    SecondaryCaptureImageStorage,
    VLPhotographicImageStorage,
    DermoscopicPhotographyImageStorage,
)
STORE = 0x0001  # FIELD of C-STORE
_MOST_IMAGES, _LARGEST_SERIES = 100_000, 32 << 30  # images and bytes of one series
_TAKEN, _NO_ROOM, _NO_IMAGE = 0x0000, 0xA700, 0xC000  # status
_MOST_SENDERS = 10  # associations at a time
_LOOKING = 0.2  # seconds between checks whether to close the port


class Box:
    """A folder that receives the images of one series, from any number of associations, until it is closed.

    Args:
        folder: the folder, which may contain files already.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._first = folder, len(list(folder.iterdir()))
        self._begun = self._size = 0
        self._files: list[Path] = []
        self._open = True
        self._lock = threading.Lock()

    def close(self) -> list[Path]:
        """Stop receiving, and return the files of the images that arrived completely."""
        with self._lock:
            self._open = False
            return self._files

    def write(self, meta: bytes, pieces: Iterator[memoryview]) -> bool:
        """Write an image as it arrives, and return whether it was stored completely.

        Args:
            meta: the beginning of the file, before the data set.
            pieces: the pieces of the data set; some may be left unread.
        """
        with self._lock:
            number = self._begun
            self._begun += 1
        file = self._folder / f"{self._first + number:06d}.dcm"  # numbered: received data never name a file
        unfinished = file.with_name(f".{file.name}")  # hidden: whoever reads the folder leaves it out
        made = whole = False
        try:
            if number < _MOST_IMAGES and self._has_room(len(meta)):
                with open(unfinished, "xb") as out:
                    made = True
                    out.write(meta)
                    whole = all(self._has_room(len(piece)) and out.write(piece) for piece in pieces)
                with self._lock:
                    whole = whole and self._open and not file.exists()
                    if whole:
                        unfinished.rename(file)
                        self._files.append(file)
        except OSError:  # from the disk; a broken connection raises `Broken`
            whole = False
        finally:
            if made and not whole:
                with suppress(OSError):
                    unfinished.unlink()
        return whole

    def _has_room(self, more: int) -> bool:
        with self._lock:
            self._size += more
            return self._open and self._size <= _LARGEST_SERIES


def take(association: Association, message: Message, box: Box | None) -> None:
    """Receive the image of a C-STORE request, and answer the request.

    Args:
        association: the association.
        message: the C-STORE request.
        box: where the image is stored; None refuses it.
    """
    kind, uid, pieces = message.uid(KIND), message.uid(UID), association.data(message)
    status = _NO_ROOM
    if not (kind and uid and message.has_data):
        status = _NO_IMAGE
    elif box is not None and box.write(_file_meta(kind, uid, association.contexts[message.context][1]), pieces):
        status = _TAKEN
    for _ in pieces:
        pass  # skip the rest of an image that is not stored
    association.answer(message, status)


class Receiver:
    """A port that receives images from any sender while `box` is set.

    Args:
        port: port of this machine, on all its addresses.
        kinds: SOP classes that are accepted.
        timeout: seconds without a byte after which a connection is ended.

    Raises:
        OSError: the port is in use.

    Attributes:
        box: where images are stored; None refuses them.
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
        """Start to close the port and all connections, without waiting."""
        self._ended.set()

    def close(self) -> None:
        """Close the port and all connections, and wait until they are closed."""
        self.end()
        self._thread.join()

    def _listen(self) -> None:
        with self._listener:
            while not self._ended.is_set():
                if not self._free.acquire(timeout=_LOOKING):
                    continue
                try:
                    connection = self._listener.accept()[0]
                except OSError:  # no connection, or it has ended again
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
    """Encode the beginning of a file before its data set (PS3.10 section 7.1)."""
    values = ((0x0002, kind), (0x0003, uid), (0x0010, syntax), (0x0012, str(PYDICOM_IMPLEMENTATION_UID)))
    coded = struct.pack("<HH2sHL2s", 2, 1, b"OB", 0, 2, b"\0\1")
    for element, value in values:
        data = value.encode("ascii") + b"\0" * (len(value) % 2)
        coded += struct.pack("<HH2sH", 2, element, b"UI", len(data)) + data
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(coded)) + coded

"""An archive by the classic DICOM network (PS3.4, PS3.7): C-FIND, C-GET or C-MOVE, C-STORE; by `pynetdicom`.

Associations stay open between requests, and their connections send and acknowledge at once: a message goes in several
pieces, and each of them would wait 40 ms for what the other side holds back (RFC 896, RFC 1122 section 4.2.3.2).
"""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, AllTransferSyntaxes, ExplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import create_file_meta, encode_file_meta
from pynetdicom.sop_class import (
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
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    VLPhotographicImageStorage,
)

from monai_rd.deploy.archive import Query, count_of, different_images
from monai_rd.deploy.failures import ALREADY_THERE, ArchiveError, Failure, of_rejection, of_status

__all__ = ["Dimse"]

# What the bundles read. An association holds 128 contexts at most, so not simply everything.
_IMAGES = (
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
_PENDING = (0xFF00, 0xFF01)
_CONNECTING, _AGREEING, _TIMEOUT = 10.0, 20.0, 60.0  # s for a connection, an association, and without an answer
_IDLE = 5.0  # s after which an association is made anew: the archive may be about to end it
_PDU = 128 << 10  # bytes
_MOST_ANSWERS = 1_000_000
_MOST_IMAGES, _LARGEST_SERIES = 100_000, 32 << 30  # of one series, in bytes
_FIND = StudyRootQueryRetrieveInformationModelFind
_GET = StudyRootQueryRetrieveInformationModelGet
_MOVE = StudyRootQueryRetrieveInformationModelMove
_config.LOG_HANDLER_LEVEL = "none"  # it would write out each message for a log that nobody keeps


class Dimse:
    """An archive in the classic DICOM network.

    Args:
        title: the archive's AE title.
        host: its address.
        port: its port.
        own_title: ours; many archives answer titles that they know alone.
        listen: port at which we take what the archive sends for C-MOVE; None asks by C-GET.
    """

    def __init__(self, title: str, host: str, port: int, own_title: str, listen: int | None = None) -> None:
        self.title, self.host, self.port, self.own_title, self.listen = title, host, port, own_title, listen
        self._inbox, self._open = _Inbox(), _Open()
        self._answered: set[str] = set()  # what it has answered to once, so that it knows us
        self._kinds: set[tuple[str, str]] = set()  # what we send: SOP classes and transfer syntaxes
        _sweeper()
        weakref.finalize(self, _FORGOTTEN.put, self._open).atexit = False  # then `_Held` ends them

    def studies(self, query: Query) -> list[str]:
        """See `Archive`."""
        found: set[str] = set()
        for uid in query.studies or ("",):
            asked = _identifier("STUDY", StudyInstanceUID=uid, ModalitiesInStudy=query.modality)
            asked.StudyDate = f"{query.since}-" if query.since else ""
            # An archive may not know ModalitiesInStudy, and then gives studies of all modalities: `series` tells.
            found |= {_text(one, "StudyInstanceUID") for one in self._find(asked)}
        return sorted(found & set(query.studies) if query.studies else found)

    def series(self, study: str, modality: str) -> dict[str, int | None]:
        """See `Archive`."""
        asked = _identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID="", Modality=modality)
        asked.NumberOfSeriesRelatedInstances = None
        found = {
            _text(one, "SeriesInstanceUID"): count_of(_text(one, "NumberOfSeriesRelatedInstances"))
            for one in self._find(asked)
            if _text(one, "Modality") in ("", modality)
        }
        return dict(sorted(found.items()))

    def fetch(self, study: str, series: str, folder: Path) -> int:
        """See `Archive`."""
        asked = _identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID=series)
        self._inbox.empty_into(folder)
        try:
            if self.listen is None:
                self._finished("C-GET", "a series could not be fetched", lambda one: one.send_c_get(asked, _GET))
            else:
                self._open.listen(self.own_title, self.listen, self._inbox)
                title = self.own_title
                self._finished(
                    "C-MOVE", "a series could not be fetched", lambda one: one.send_c_move(asked, title, _MOVE)
                )
        finally:
            files = self._inbox.close()
        return different_images(files, study, series)

    def store(self, files: Sequence[Path]) -> None:
        """See `Archive`."""
        what = "DICOM: a result could not be stored"
        datasets = [dcmread(file) for file in files]
        kinds = {_kind(one) for one in datasets}
        kinds |= {(kind, str(ExplicitVRLittleEndian)) for kind, _ in kinds}  # what everybody knows
        if not kinds <= self._kinds:
            self._kinds |= kinds
            self._open.end("store")
        for one in datasets:
            association = self._associated("store")
            taken = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
            if one.file_meta.TransferSyntaxUID.is_compressed and _kind(one) not in taken:
                one.decompress(generate_instance_uid=False)
            try:
                answer = association.send_c_store(one)
            except ValueError:
                raise ArchiveError(f"{what} (it does not take this kind of object)", Failure.IMPOSSIBLE) from None
            except RuntimeError:
                raise self._broken(association, "store", what, "C-STORE") from None
            if "Status" not in answer:
                raise self._broken(association, "store", what, "C-STORE")
            self._answered.add("C-STORE")
            if answer.Status not in (0, ALREADY_THERE) and not 0xB000 <= answer.Status < 0xC000:
                raise of_status(what, answer.Status)

    def close(self) -> None:
        """End what is open; another request opens it anew. It ends too where nobody has this object any more."""
        self._open.close()

    def _find(self, asked: Dataset) -> list[Dataset]:
        return self._finished("C-FIND", "the archive could not be searched", lambda one: one.send_c_find(asked, _FIND))

    def _finished(self, service: str, what: str, ask: Callable[[Association], Iterator[Any]]) -> list[Dataset]:
        """All identifiers of a request's answers.

        Raises:
            ArchiveError: the last status is no success, or there is none.
        """
        what = f"DICOM: {what} ({service})"
        association = self._associated("ask")
        found: list[Dataset] = []
        last = Dataset()
        try:
            for last, identifier in ask(association):
                if "Status" in last and last.Status in _PENDING and identifier is not None:
                    found.append(identifier)
                if len(found) > _MOST_ANSWERS:
                    self._open.end("ask", broken=True)
                    raise ArchiveError(f"{what} (its answers have no end)", Failure.REFUSED)
        except ValueError:  # no presentation context
            other = {"C-GET": ": is C-MOVE what it knows? See --listen", "C-MOVE": ": is C-GET? Leave out --listen"}
            raise ArchiveError(f"{what} (it does not offer it{other.get(service, '')})", Failure.REFUSED) from None
        except RuntimeError:  # the association has ended
            raise self._broken(association, "ask", what, service) from None
        if "Status" not in last:
            raise self._broken(association, "ask", what, service)
        self._answered.add(service)
        if last.Status != 0:
            raise of_status(what, last.Status)
        return found

    def _broken(self, association: Association, purpose: str, what: str, service: str) -> ArchiveError:
        """The failure of a request without an answer: of one that never had any, the archive may not want us."""
        asked = time.monotonic() - self._open.used
        self._open.end(purpose, broken=True)
        if asked >= _TIMEOUT:
            return ArchiveError(f"{what} (no answer in {_TIMEOUT:.0f} s)")
        if service in self._answered:
            return of_status(what, None)
        hint = f"it broke off: does it know our AE title '{self.own_title}', and let it do this?"
        return ArchiveError(f"{what} ({hint})", Failure.AWAY if self._answered else Failure.REFUSED)

    def _associated(self, purpose: str) -> Association:
        """The association to "ask" or to "store" by, as it stands open or made anew."""
        known = self._open.get(purpose)
        if known is not None:
            return known
        client = AE(self.own_title)
        client.connection_timeout, client.acse_timeout, client.dimse_timeout = _CONNECTING, _AGREEING, _TIMEOUT
        handlers: Any = [*_PROMPT, (evt.EVT_ESTABLISHED, _hold)]
        roles: Any = None
        if purpose == "store":
            contexts = [build_context(kind, syntax) for kind, syntax in sorted(self._kinds)]
        elif self.listen is not None:
            contexts = [build_context(_FIND), build_context(_MOVE)]
        else:
            contexts = [build_context(one) for one in (_FIND, _GET)]
            contexts += [build_context(kind, AllTransferSyntaxes) for kind in _IMAGES]
            roles = [build_role(kind, scp_role=True) for kind in _IMAGES]
            handlers.append((evt.EVT_C_STORE, self._inbox.take))
        words = {"ae_title": self.title, "max_pdu": _PDU, "ext_neg": roles, "evt_handlers": handlers}
        what = f"DICOM: the archive '{self.title}' cannot be reached"
        try:
            made = client.associate(self.host, self.port, contexts=contexts, **words)
        except OSError:  # its name
            raise ArchiveError(
                f"DICOM: the archive '{self.title}' cannot be reached (no machine of that name)"
            ) from None
        if made.is_established:
            self._open.add(purpose, made)
            return made
        answer = made.acceptor.primitive
        if made.is_rejected and answer is not None:
            raise of_rejection(answer.result, answer.result_source, answer.diagnostic, self.title, self.own_title)
        if answer is not None:
            raise ArchiveError(f"{what} (it offers nothing that we need)", Failure.REFUSED)
        raise ArchiveError(f"{what} (no connection: does it run, is its address right, does it know our AE title?)")


class _Inbox:
    """The folder that images which are sent to us go to, while a series is asked for."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._files: list[Path] = []
        self._first = self._size = 0

    def empty_into(self, folder: Path) -> None:
        """Take images into a folder from now on."""
        self._first, self._files, self._size, self._folder = len(list(folder.iterdir())), [], 0, folder

    def close(self) -> list[Path]:
        """Take no more; returns the files of what came."""
        self._folder = None
        return self._files

    def take(self, event: evt.Event) -> int:
        """Write an image as it comes; returns the status of C-STORE."""
        folder, image = self._folder, event.request
        uid = str(image.AffectedSOPInstanceUID)
        # As it came: only what a file has before it is written here.
        coded = _file_meta(str(image.AffectedSOPClassUID), str(event.context.transfer_syntax), len(uid))
        coded = coded.replace(_UID_OF[len(uid)], uid.encode()) + event.encoded_dataset(include_meta=False)
        self._size += len(coded)
        if folder is None or len(self._files) >= _MOST_IMAGES or self._size > _LARGEST_SERIES:
            return 0xA700  # out of resources
        file = folder / f"{self._first + len(self._files):06d}.dcm"  # what comes from outside names no file
        try:
            file.write_bytes(coded)
        except OSError:
            return 0xA700
        self._files.append(file)
        return 0x0000


_UID_OF = [b"9" * length for length in range(65)]


@lru_cache
def _file_meta(kind: str, syntax: str, length: int) -> bytes:
    """Preamble and file meta information of an image whose UID is `_UID_OF[length]`: to write one takes long."""
    meta = create_file_meta(
        sop_class_uid=UID(kind), sop_instance_uid=UID(_UID_OF[length].decode()), transfer_syntax=UID(syntax)
    )
    return bytes(128) + b"DICM" + bytes(encode_file_meta(meta))


class _Open:
    """What is open: an association for each purpose, and the port that we listen at.

    Attributes:
        used: when an association was last asked for (`time.monotonic`).
    """

    def __init__(self) -> None:
        self._associations: dict[str, Association] = {}
        self._server: Any = None
        self.used = 0.0

    def add(self, purpose: str, made: Association) -> None:
        """Keep a new association."""
        self._associations[purpose], self.used = made, time.monotonic()

    def get(self, purpose: str) -> Association | None:
        """The association for a purpose, None where there is none that can be relied on."""
        now, idle = time.monotonic(), time.monotonic() - self.used
        self.used = now
        known = self._associations.get(purpose)
        if known is not None and idle < _IDLE and _stands(known):
            return known
        self.end(purpose, broken=idle < _IDLE)
        return None

    def end(self, purpose: str, broken: bool = False) -> None:
        """End an association, if there is one."""
        known = self._associations.pop(purpose, None)
        if known is None:
            return
        if broken or not _stands(known):
            known.abort()
        else:
            known.release()
        known._reactor_checkpoint.let_go()

    def listen(self, title: str, port: int, inbox: _Inbox) -> None:
        """Let images be sent to us from now on.

        Raises:
            OSError: something else listens at the port.
        """
        if self._server is not None:
            return
        receiver = AE(title)
        receiver.supported_contexts = [build_context(kind, AllTransferSyntaxes) for kind in _IMAGES]
        receiver.maximum_pdu_size, receiver.network_timeout = _PDU, _TIMEOUT
        handlers: Any = [*_PROMPT, (evt.EVT_C_STORE, inbox.take)]
        try:
            self._server = receiver.start_server(("", port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise OSError(f"--listen {port}: cannot listen at this port ({error.strerror}); give another") from None

    def close(self) -> None:
        """End all."""
        for purpose in list(self._associations):
            self.end(purpose)
        if self._server is not None:
            self._server.shutdown()
            self._server = None


# What was open in an archive that nobody closed. The garbage collector finds it, in any thread and under any lock, and
# must not wait for a connection there; to put something into this queue is safe.
_FORGOTTEN: SimpleQueue[_Open] = SimpleQueue()


@cache
def _sweeper() -> None:
    def sweep() -> None:
        while True:
            _FORGOTTEN.get().close()

    threading.Thread(target=sweep, daemon=True).start()


def _stands(known: Association) -> bool:
    """Whether the other side has not ended an association."""
    ended = known.acse.is_aborted() or known.acse.is_release_requested()
    return known.is_established and known.dul.is_alive() and not ended


class _Held(threading.Event):
    """Where pynetdicom's own loop of an association waits, from its begin to its end.

    It would look for messages between our requests, and now and then take the first answer to the next one for itself
    (pynetdicom 3.0.4): a search would find too little, and say that this is all.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association

    def set(self) -> None:
        """Nothing: pynetdicom does so after each request."""

    def let_go(self) -> None:
        """Let the loop end, as the association has."""
        super().set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the association, or of the program, which an open one would keep alive."""
        while not super().wait(1.0):
            if not threading.main_thread().is_alive():
                self._association.dul.kill_dul()
                return False
        return True


def _hold(event: evt.Event) -> None:
    event.assoc._reactor_checkpoint = _Held(event.assoc)


def _prompt(event: evt.Event) -> None:
    """Have a connection send and acknowledge at once; the system forgets about the latter with each packet."""
    connection = getattr(event.assoc.dul.socket, "socket", None)
    if connection is None:
        return
    try:
        if event.event is evt.EVT_CONN_OPEN:
            connection.settimeout(_TIMEOUT)  # half a message must not be waited for forever
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_QUICKACK"):  # Linux
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    except OSError:
        pass  # it is closed already


_PROMPT = [(one, _prompt) for one in (evt.EVT_CONN_OPEN, evt.EVT_DATA_RECV, evt.EVT_DATA_SENT)]


def _identifier(level: str, **keys: str) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    return asked


def _kind(one: Dataset) -> tuple[str, str]:
    """SOP class and transfer syntax of an object out of a file."""
    return str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)


def _text(found: Dataset, keyword: str) -> str:
    """An attribute of an answer as it stands there, "" where it does not or cannot be read."""
    try:
        value = found.get(keyword)
    except Exception:  # pydicom's conversion has an exception for each way to be wrong
        return "?"
    return "" if value is None else str(value)

"""An archive accessed by DIMSE (PS3.4): C-FIND, C-GET or C-MOVE, C-STORE. Associations are kept open."""

from __future__ import annotations

import re
import socket
import time
import weakref
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from monai_rd.integrations.archives import pdu
from monai_rd.integrations.archives.archive import Query, count_of, different_images
from monai_rd.integrations.archives.association import Association, Proposed, Rejected, request
from monai_rd.integrations.archives.failures import ALREADY_THERE, ArchiveError, Failure, of_rejection, of_status
from monai_rd.integrations.archives.pdu import Broken
from monai_rd.integrations.archives.receiving import IMAGES, STORE, Box, Receiver, take
from monai_rd.integrations.archives.searching import Days, Found, day_of, search_by_days

__all__ = ["Dimse"]

_PENDING = (0xFF00, 0xFF01)
_CUT = (0xFE00, 0xA700)  # how archives end a search that has more answers than they give, or refuse it
_SEARCHED = "the archive could not be searched"
_CONNECTING, _AGREEING, _TIMEOUT = 10.0, 20.0, 60.0  # seconds for a connection, an association, an answer
_IDLE = 5.0  # seconds after which an idle association is not reused: the archive may be about to end it
_MOST_ANSWERS = 1_000_000
_TITLE = re.compile(r"[ -\[\]-~]{1,16}")
# SOP classes of the Study Root information model (PS3.4 annex C).
_FIND, _MOVE, _GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
_FIELDS = {_FIND: 0x0020, _GET: 0x0010, _MOVE: 0x0021}
_SERVICES = {_FIND: "C-FIND", _GET: "C-GET", _MOVE: "C-MOVE"}


class Dimse:
    """An archive accessed by DIMSE, the classic DICOM network protocol.

    Args:
        title: the archive's AE title.
        host: host name or address.
        port: port of the archive.
        own_title: our AE title; many archives answer known titles only.
        listen: port to receive images at by C-MOVE; None uses C-GET.

    Raises:
        ValueError: an invalid AE title or port.
    """

    def __init__(self, title: str, host: str, port: int, own_title: str, listen: int | None = None) -> None:
        wrong = next((one for one in (title, own_title) if not _TITLE.fullmatch(one) or not one.strip()), None)
        if wrong is not None:
            raise ValueError(f"'{wrong}' is no AE title: it has 1 to 16 characters of ASCII, and no backslash")
        for one in (port,) if listen is None else (port, listen):
            if not 0 < one < 1 << 16:
                raise ValueError(f"there is no port {one}: ports are 1 to 65535")
        self.title, self.host, self.port, self.own_title, self.listen = title, host, port, own_title, listen
        self._open = _Open()
        self._answered: set[str] = set()  # services that the archive has answered, so that it knows us
        self._kinds: set[tuple[str, str]] = set()  # SOP classes and transfer syntaxes that we send
        weakref.finalize(self, self._open.forget)

    def studies(self, query: Query) -> list[str]:
        """See `Archive`."""
        found: set[str] = set()
        for uid in query.studies:
            found |= self._of_days(query, Days(day_of(query.since or "")), uid).days.keys()
        if not query.studies:
            found = search_by_days(lambda days: self._of_days(query, days), _no_rest, query.since)
        return sorted(found & set(query.studies) if query.studies else found)

    def series(self, study: str, modality: str) -> dict[str, int | None]:
        """See `Archive`."""
        asked = _identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID="", Modality=modality)
        asked.NumberOfSeriesRelatedInstances = None
        found: dict[str, int | None] = {}

        def keep(one: Dataset) -> None:
            if _text(one, "Modality") in ("", modality):
                found[_text(one, "SeriesInstanceUID")] = count_of(_text(one, "NumberOfSeriesRelatedInstances"))

        self._finished(_FIND, _SEARCHED, asked, each=keep)
        return dict(sorted(found.items()))

    def fetch(self, study: str, series: str, folder: Path) -> int:
        """See `Archive`."""
        asked = _identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID=series)
        what, box = "a series could not be fetched", Box(folder)
        try:
            if self.listen is None:
                self._finished(_GET, what, asked, box=box)
            else:
                self._open.listen(self.listen, _TIMEOUT).box = box
                self._finished(_MOVE, what, asked, {pdu.DESTINATION: self.own_title})
        finally:
            files = box.close()
        return different_images(files, study, series)

    def store(self, files: Sequence[Path]) -> None:
        """See `Archive`."""
        what = "DICOM: a result could not be stored"
        datasets = [dcmread(file) for file in files]
        kinds = {_kind(one) for one in datasets}
        kinds |= {(kind, str(ExplicitVRLittleEndian)) for kind, _ in kinds}  # supported by all archives
        if not kinds <= self._kinds:
            self._kinds |= kinds
            self._open.end("store")
        for one in datasets:
            with self._associated("store", what, "C-STORE") as made:
                status = self._sent(made, what, one)
            if status not in (0, ALREADY_THERE) and not 0xB000 <= status < 0xC000:
                raise of_status(what, status)

    def close(self) -> None:
        """See `Archive`; connections are also closed when this object is garbage-collected."""
        self._open.close()

    def _sent(self, made: Association, what: str, one: Dataset) -> int:
        """Send an object, decompressed if the archive requires it, and return the status of the answer."""
        kind, syntax = _kind(one)
        context = made.context_of(kind, syntax)
        if context is None:
            context = made.context_of(kind, ExplicitVRLittleEndian)
            if context is None:
                raise ArchiveError(f"{what} (it does not take this kind of object)", Failure.IMPOSSIBLE)
            if one.file_meta.TransferSyntaxUID.is_compressed:
                one.decompress(generate_instance_uid=False)
        coded = _coded(one, made.contexts[context][1])
        made.ask(context, STORE, {pdu.UID: str(one.SOPInstanceUID)}, coded)
        answer = made.receive()
        if answer.number(pdu.FIELD) != STORE | pdu.ANSWER:
            raise Broken("it answers something else")
        self._answered.add("C-STORE")
        return answer.number(pdu.STATUS)

    def _of_days(self, query: Query, days: Days, study: str = "") -> Found:
        # An archive without ModalitiesInStudy returns studies of all modalities; `series` filters them.
        asked = _identifier("STUDY", StudyInstanceUID=study, ModalitiesInStudy=query.modality)
        asked.StudyDate = str(days)
        found: dict[str, str] = {}

        def keep(one: Dataset) -> None:
            found[_text(one, "StudyInstanceUID")] = _text(one, "StudyDate")

        return Found(found, bool(self._finished(_FIND, _SEARCHED, asked, each=keep, also=_CUT)))

    def _finished(
        self,
        model: str,
        what: str,
        asked: Dataset,
        values: Mapping[int, int | str] | None = None,
        box: Box | None = None,
        each: Callable[[Dataset], None] = lambda found: None,
        also: Collection[int] = (),
    ) -> int:
        """Send a request, pass on the identifiers of its answers, and return its final status.

        Args:
            model: the service.
            what: what failed if it does, for the message.
            asked: the identifier of the request.
            values: further elements of the command.
            box: for images that arrive.
            each: called with the identifier of each answer.
            also: permitted final statuses, besides success.

        Raises:
            ArchiveError: the final status is missing or not permitted.
        """
        service = _SERVICES[model]
        what = f"DICOM: {what} ({service})"
        count = 0
        with self._associated("ask", what, service) as made:
            context = made.context_of(model)
            if context is None:
                other = {_GET: ": is C-MOVE what it knows? See --listen", _MOVE: ": is C-GET? Leave out --listen"}
                raise ArchiveError(f"{what} (it does not offer it{other.get(model, '')})", Failure.REFUSED)
            syntax = made.contexts[context][1]
            made.ask(context, _FIELDS[model], values or {}, _coded(asked, syntax))
            status = _PENDING[0]
            while status in _PENDING:
                message = made.receive()
                if box is not None and message.number(pdu.FIELD) == STORE:
                    take(made, message, box)
                    continue
                if message.number(pdu.FIELD) != _FIELDS[model] | pdu.ANSWER:
                    raise Broken("it answers something else")
                status = message.number(pdu.STATUS)
                data = made.whole_data(message)
                if status in _PENDING and data:
                    each(_decoded(data, syntax, what))
                    count += 1
                if count > _MOST_ANSWERS:
                    raise ArchiveError(f"{what} (its answers have no end)", Failure.REFUSED)
            self._answered.add(service)
        if status != 0 and status not in also:
            raise of_status(what, status)
        return status

    @contextmanager
    def _associated(self, purpose: str, what: str, service: str) -> Iterator[Association]:
        """Provide an association, an open one or a new one; any error ends it.

        Args:
            purpose: "ask" or "store".
            what: what failed if it breaks, for the message.
            service: the service that it is used for.

        Raises:
            ArchiveError: the association breaks. If the archive has never answered, it may not accept our title.
        """
        made = self._open.pop(purpose) or self._made(purpose)
        try:
            yield made
        except Broken as broken:
            made.abort()
            if broken.silent:
                raise ArchiveError(f"{what} (no answer in {_TIMEOUT:.0f} s)") from None
            if service in self._answered:
                raise of_status(what, None) from None
            hint = f"it broke off: does it know our AE title '{self.own_title}', and let it do this?"
            kind = Failure.UNAVAILABLE if self._answered else Failure.REFUSED
            raise ArchiveError(f"{what} ({hint})", kind) from None
        except BaseException:
            made.abort()
            raise
        self._open.add(purpose, made)

    def _made(self, purpose: str) -> Association:
        """Make a new association."""
        simple = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
        if purpose == "store":
            proposed = [Proposed(kind, (syntax,)) for kind, syntax in sorted(self._kinds)]
        elif self.listen is not None:
            proposed = [Proposed(_FIND, simple), Proposed(_MOVE, simple)]
        else:
            proposed = [Proposed(_FIND, simple), Proposed(_GET, simple)]
            proposed += [Proposed(kind, AllTransferSyntaxes, to_us=True) for kind in IMAGES]
        what = f"DICOM: the archive '{self.title}' cannot be reached"
        waits = (_CONNECTING, _AGREEING, _TIMEOUT)
        try:
            made = request((self.host, self.port), (self.title, self.own_title), proposed, waits)
        except socket.gaierror:  # its text contains the host name
            raise ArchiveError(f"{what} (no machine of that name)") from None
        except Rejected as no:
            raise of_rejection(no.result, no.source, no.reason, self.title, self.own_title) from None
        except (OSError, Broken):
            hint = "no connection: does it run, is its address right, does it know our AE title?"
            raise ArchiveError(f"{what} ({hint})") from None
        if not made.contexts:
            made.release()
            raise ArchiveError(f"{what} (it offers nothing that we need)", Failure.REFUSED)
        return made


class _Open:
    """The open connections: an association for each purpose, and the port that we listen at."""

    def __init__(self) -> None:
        self._associations: dict[str, tuple[Association, float]] = {}
        self._receiver: Receiver | None = None

    def add(self, purpose: str, made: Association) -> None:
        """Keep an idle association."""
        self._associations[purpose] = made, time.monotonic()

    def pop(self, purpose: str) -> Association | None:
        """Take the idle association for a purpose; None if there is none or it may be about to end."""
        made, used = self._associations.get(purpose, (None, 0.0))
        if made is not None and time.monotonic() - used < _IDLE and made.stands():
            del self._associations[purpose]
            return made
        self.end(purpose)
        return None

    def end(self, purpose: str) -> None:
        """End an association, if there is one."""
        made, _ = self._associations.pop(purpose, (None, 0.0))
        if made is not None:
            made.release()

    def listen(self, port: int, timeout: float) -> Receiver:
        """Start to listen for images.

        Raises:
            OSError: the port is in use.
        """
        if self._receiver is None:
            try:
                self._receiver = Receiver(port, IMAGES, timeout)
            except OSError as error:
                raise OSError(f"--listen {port}: cannot listen at this port ({error.strerror}); give another") from None
        return self._receiver

    def close(self) -> None:
        """End all connections."""
        for purpose in list(self._associations):
            self.end(purpose)
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def forget(self) -> None:
        """End all connections without waiting: called by the garbage collector, in any thread."""
        for made, _ in self._associations.values():
            made.abort()
        if self._receiver is not None:
            self._receiver.end()


def _no_rest(days: Days) -> set[str]:
    """Say that C-FIND has no other way.

    Raises:
        ArchiveError: always.
    """
    what = "it gives a part of the studies of one day, or of those without a day: raise its limit, or give --since"
    raise ArchiveError(f"DICOM: {_SEARCHED} (C-FIND: {what})", Failure.REFUSED)


def _coded(one: Dataset, syntax: str) -> bytes:
    """Encode a data set without file meta information."""
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, syntax == ImplicitVRLittleEndian
    write_dataset(out, one)
    data = bytes(out.getvalue())
    if syntax != DeflatedExplicitVRLittleEndian:
        return data
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflate.compress(data) + deflate.flush()
    return data + b"\0" * (len(data) % 2)


def _decoded(data: bytes, syntax: str, what: str) -> Dataset:
    """Decode the identifier of an answer."""
    try:
        return read_dataset(BytesIO(data), syntax == ImplicitVRLittleEndian, True)
    except Exception:  # pydicom's reader may raise any exception on damaged data
        raise ArchiveError(f"{what} (an answer is no DICOM)", Failure.DAMAGED) from None


def _identifier(level: str, **keys: str) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    return asked


def _kind(one: Dataset) -> tuple[str, str]:
    """Return the SOP class and transfer syntax of an object read from a file."""
    return str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)


def _text(found: Dataset, keyword: str) -> str:
    """Return an attribute of an answer as text; "" if it is missing, "?" if it cannot be read."""
    try:
        value = found.get(keyword)
    except Exception:  # pydicom's conversion may raise any exception on invalid values
        return "?"
    return "" if value is None else str(value)

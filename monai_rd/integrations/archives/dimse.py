"""An archive by the classic DICOM network (PS3.4): C-FIND, C-GET or C-MOVE, C-STORE. Associations stay open."""

from __future__ import annotations

import re
import socket
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
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
    BreastTomosynthesisImageStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DermoscopicPhotographyImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    VLPhotographicImageStorage,
)

from monai_rd.integrations.archives import pdu
from monai_rd.integrations.archives.archive import Query, count_of, different_images
from monai_rd.integrations.archives.association import Association, Proposed, Rejected, request
from monai_rd.integrations.archives.failures import ALREADY_THERE, ArchiveError, Failure, of_rejection, of_status
from monai_rd.integrations.archives.pdu import Broken
from monai_rd.integrations.archives.receiving import STORE, Box, Receiver, take

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
_MOST_ANSWERS = 1_000_000
_TITLE = re.compile(r"[ -\[\]-~]{1,16}")
# Of the Study Root information model (PS3.4 annex C).
_FIND, _MOVE, _GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
_FIELDS = {_FIND: 0x0020, _GET: 0x0010, _MOVE: 0x0021}
_SERVICES = {_FIND: "C-FIND", _GET: "C-GET", _MOVE: "C-MOVE"}


class Dimse:
    """An archive in the classic DICOM network.

    Args:
        title: the archive's AE title.
        host: its address.
        port: its port.
        own_title: ours; many archives answer titles that they know alone.
        listen: port at which we take what the archive sends for C-MOVE; None asks by C-GET.

    Raises:
        ValueError: an AE title that is none, or a port.
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
        self._answered: set[str] = set()  # what it has answered to once, so that it knows us
        self._kinds: set[tuple[str, str]] = set()  # what we send: SOP classes and transfer syntaxes
        weakref.finalize(self, self._open.forget)

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
        kinds |= {(kind, str(ExplicitVRLittleEndian)) for kind, _ in kinds}  # what everybody knows
        if not kinds <= self._kinds:
            self._kinds |= kinds
            self._open.end("store")
        for one in datasets:
            with self._associated("store", what, "C-STORE") as made:
                status = self._sent(made, what, one)
            if status not in (0, ALREADY_THERE) and not 0xB000 <= status < 0xC000:
                raise of_status(what, status)

    def close(self) -> None:
        """End what is open; another request opens it anew. It ends too where nobody has this object any more."""
        self._open.close()

    def _sent(self, made: Association, what: str, one: Dataset) -> int:
        """Send an object as it is, or unpacked to who takes it so only; returns the status of the answer."""
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

    def _find(self, asked: Dataset) -> list[Dataset]:
        return self._finished(_FIND, "the archive could not be searched", asked)

    def _finished(
        self,
        model: str,
        what: str,
        asked: Dataset,
        values: Mapping[int, int | str] | None = None,
        box: Box | None = None,
    ) -> list[Dataset]:
        """All identifiers of a request's answers; images that come with them go into a box.

        Raises:
            ArchiveError: the last status is no success, or there is none.
        """
        service = _SERVICES[model]
        what = f"DICOM: {what} ({service})"
        found: list[Dataset] = []
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
                    found.append(_decoded(data, syntax, what))
                if len(found) > _MOST_ANSWERS:
                    raise ArchiveError(f"{what} (its answers have no end)", Failure.REFUSED)
            self._answered.add(service)
        if status != 0:
            raise of_status(what, status)
        return found

    @contextmanager
    def _associated(self, purpose: str, what: str, service: str) -> Iterator[Association]:
        """The association to "ask" or to "store" by, as it stands open or made anew. What goes wrong ends it.

        Args:
            purpose: "ask" or "store".
            what: what is not to be had where it breaks.
            service: for which it is.

        Raises:
            ArchiveError: it breaks. Where nothing was ever answered, the archive may not want us.
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
        """A new association."""
        simple = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
        if purpose == "store":
            proposed = [Proposed(kind, (syntax,)) for kind, syntax in sorted(self._kinds)]
        elif self.listen is not None:
            proposed = [Proposed(_FIND, simple), Proposed(_MOVE, simple)]
        else:
            proposed = [Proposed(_FIND, simple), Proposed(_GET, simple)]
            proposed += [Proposed(kind, AllTransferSyntaxes, to_us=True) for kind in _IMAGES]
        what = f"DICOM: the archive '{self.title}' cannot be reached"
        waits = (_CONNECTING, _AGREEING, _TIMEOUT)
        try:
            made = request((self.host, self.port), (self.title, self.own_title), proposed, waits)
        except socket.gaierror:  # its text holds the name
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
    """What is open: an association for each purpose, and the port that we listen at."""

    def __init__(self) -> None:
        self._associations: dict[str, tuple[Association, float]] = {}
        self._receiver: Receiver | None = None

    def add(self, purpose: str, made: Association) -> None:
        """Keep an association that nothing is asked by now."""
        self._associations[purpose] = made, time.monotonic()

    def pop(self, purpose: str) -> Association | None:
        """The association for a purpose, None where there is none that can be relied on."""
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
        """Let images be sent to us from now on.

        Raises:
            OSError: something else listens at the port.
        """
        if self._receiver is None:
            try:
                self._receiver = Receiver(port, _IMAGES, timeout)
            except OSError as error:
                raise OSError(f"--listen {port}: cannot listen at this port ({error.strerror}); give another") from None
        return self._receiver

    def close(self) -> None:
        """End all."""
        for purpose in list(self._associations):
            self.end(purpose)
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def forget(self) -> None:
        """End all without waiting for anybody: the garbage collector asks for it, in any thread."""
        for made, _ in self._associations.values():
            made.abort()
        if self._receiver is not None:
            self._receiver.end()


def _coded(one: Dataset, syntax: str) -> bytes:
    """A data set without file meta information."""
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, syntax == ImplicitVRLittleEndian
    write_dataset(out, one)
    return bytes(out.getvalue())


def _decoded(data: bytes, syntax: str, what: str) -> Dataset:
    """An identifier of an answer."""
    try:
        return read_dataset(BytesIO(data), syntax == ImplicitVRLittleEndian, True)
    except Exception:  # pydicom's reader has an exception for each way to be damaged
        raise ArchiveError(f"{what} (an answer is no DICOM)", Failure.DAMAGED) from None


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

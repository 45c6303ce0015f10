"""An archive by the classic DICOM network (PS3.4, PS3.7): C-FIND, C-GET or C-MOVE, C-STORE; by `pynetdicom`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
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

from monai_rd.deploy.archive import ArchiveError, Query

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
_TIMEOUT = 60.0  # s without an answer


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

    def studies(self, query: Query) -> list[str]:
        """See `Archive`."""
        found: set[str] = set()
        for uid in query.studies or ("",):
            asked = _identifier("STUDY", StudyInstanceUID=uid, ModalitiesInStudy=query.modality)
            asked.StudyDate = f"{query.since}-" if query.since else ""
            # An archive may not know ModalitiesInStudy, and then gives studies of all modalities: `series` tells.
            found |= {str(one.StudyInstanceUID) for one in self._find(asked)}
        return sorted(found)

    def series(self, study: str, modality: str) -> dict[str, int | None]:
        """See `Archive`."""
        asked = _identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID="", Modality=modality)
        asked.NumberOfSeriesRelatedInstances = None
        counts = {str(one.SeriesInstanceUID): one.get("NumberOfSeriesRelatedInstances") for one in self._find(asked)}
        return {uid: None if count is None else int(count) for uid, count in sorted(counts.items())}

    def fetch(self, study: str, series: str, folder: Path) -> int:
        """See `Archive`."""
        before = len(list(folder.iterdir()))
        asked = _identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID=series)

        def take(event: evt.Event) -> int:
            try:
                # Under numbers: what comes from outside names no file.
                (folder / f"{len(list(folder.iterdir())):06d}.dcm").write_bytes(event.encoded_dataset())
            except OSError:
                return 0xA700  # out of resources
            return 0x0000

        handlers: Any = [(evt.EVT_C_STORE, take)]
        if self.listen is None:
            get = StudyRootQueryRetrieveInformationModelGet
            contexts = [build_context(get), *(build_context(kind, AllTransferSyntaxes) for kind in _IMAGES)]
            with self._associated(contexts, [build_role(kind, scp_role=True) for kind in _IMAGES], handlers) as open_:
                _finish(open_.send_c_get(asked, get), "a series could not be fetched (C-GET)")
        else:
            receiver = AE(self.own_title)
            receiver.supported_contexts = [build_context(kind, AllTransferSyntaxes) for kind in _IMAGES]
            server = receiver.start_server(("", self.listen), block=False, evt_handlers=handlers)
            try:
                move = StudyRootQueryRetrieveInformationModelMove
                with self._associated([build_context(move)]) as open_:
                    answers = open_.send_c_move(asked, self.own_title, move)
                    _finish(answers, "a series could not be fetched (C-MOVE)")
            finally:
                server.shutdown()
        return len(list(folder.iterdir())) - before

    def store(self, files: Sequence[Path]) -> None:
        """See `Archive`."""
        datasets = [dcmread(file) for file in files]
        kinds = sorted({(one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in datasets})
        with self._associated([build_context(kind, syntax) for kind, syntax in kinds]) as open_:
            for one in datasets:
                try:
                    status = open_.send_c_store(one)
                except (RuntimeError, ValueError) as error:  # no context was accepted for it, or the line is dead
                    raise ArchiveError(f"DICOM: a result could not be stored ({type(error).__name__})") from None
                if "Status" not in status or (status.Status != 0 and not 0xB000 <= status.Status < 0xC000):
                    raise ArchiveError(f"DICOM: a result could not be stored ({_status(status)})")

    def _find(self, asked: Dataset) -> list[Dataset]:
        find = StudyRootQueryRetrieveInformationModelFind
        with self._associated([build_context(find)]) as open_:
            return _finish(open_.send_c_find(asked, find), "the archive could not be searched (C-FIND)")

    @contextmanager
    def _associated(self, contexts: Any, roles: Any = None, handlers: Any = None) -> Iterator[Association]:
        client = AE(self.own_title)
        client.acse_timeout = client.dimse_timeout = client.network_timeout = client.connection_timeout = _TIMEOUT
        open_ = client.associate(
            self.host,
            self.port,
            contexts=contexts,
            ae_title=self.title,
            ext_neg=roles,
            evt_handlers=handlers,
        )
        if not open_.is_established:
            why = "it refused us: does it know our AE title?" if open_.is_rejected else "no connection"
            raise ArchiveError(f"DICOM: the archive '{self.title}' cannot be reached ({why})")
        try:
            yield open_
        finally:
            if open_.is_established:
                open_.release()


def _identifier(level: str, **keys: str) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    return asked


def _finish(answers: Iterator[tuple[Dataset, Dataset | None]], what: str) -> list[Dataset]:
    """All identifiers of a request's answers.

    Raises:
        ArchiveError: the last status is no success, or there is none.
    """
    found, last = [], Dataset()
    for status, identifier in answers:
        last = status
        if "Status" in status and status.Status in _PENDING and identifier is not None:
            found.append(identifier)
    if "Status" not in last or last.Status != 0:
        raise ArchiveError(f"DICOM: {what} ({_status(last)})")
    return found


def _status(answer: Dataset) -> str:
    return f"status {answer.Status:#06x}" if "Status" in answer else "the connection broke"

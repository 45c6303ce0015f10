"""Finding, fetching and storing in a real archive by both of its languages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

pytest.importorskip("requests", reason="the extra 'dicom' is not installed")

from monai_rd.integrations.archives.archive import Archive, Query
from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.archives.failures import ArchiveError, Failure
from tests.dicom_files import NAME, PATIENT_ID, make_series
from tests.servers import Orthanc, running_orthanc


def delete_study(orthanc: Orthanc, uid: str) -> None:
    """Leave the archive as it was for the other tests."""
    import requests

    rest = orthanc.web.removesuffix("/dicom-web")
    (known,) = requests.post(f"{rest}/tools/lookup", data=uid, timeout=30).json()
    requests.delete(f"{rest}/studies/{known['ID']}", timeout=30).raise_for_status()


PIXELS: dict[str, np.ndarray] = {}
Open = Callable[[Orthanc], Archive]
WAYS: dict[str, Open] = {
    "dicomweb": lambda orthanc: open_archive(orthanc.web),
    "C-GET": lambda orthanc: open_archive(orthanc.dimse),
    "C-MOVE": lambda orthanc: open_archive(orthanc.dimse, listen=orthanc.listen),
}


@pytest.fixture
def archive(way: str, orthanc: Orthanc) -> Iterator[Archive]:
    """The archive by a way, closed when the test is over: the next one listens at the same port."""
    with closing(WAYS[way](orthanc)) as opened:
        yield opened


@pytest.fixture(scope="module")
def studies(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A CT and an MR of other days; the CT compressed. StudyInstanceUID by modality."""
    root = tmp_path_factory.mktemp("series")

    def older(k: int, ds: Dataset) -> None:
        ds.StudyDate = "20150101"

    make_series(root / "CT", slices=5)
    make_series(root / "MR", slices=3, modality="MR", change=older)
    found = {}
    for modality in ("CT", "MR"):
        files = sorted((root / modality).iterdir())
        for file in files:
            dataset = dcmread(file)
            found[modality] = str(dataset.StudyInstanceUID)
            PIXELS[dataset.SOPInstanceUID] = dataset.pixel_array
            if modality == "CT":
                dataset.compress(RLELossless, generate_instance_uid=False)
                dataset.save_as(file)
        WAYS["dicomweb" if modality == "CT" else "C-GET"](orthanc).store(files)
        WAYS["dicomweb" if modality == "CT" else "C-GET"](orthanc).store(files)  # again, and it is there once
    return found


@pytest.mark.parametrize("way", WAYS)
def test_what_is_stored_is_found_and_fetched_as_it_was(
    way: str, archive: Archive, studies: dict[str, str], tmp_path: Path
) -> None:
    for modality, images in (("CT", 5), ("MR", 3)):
        (study,) = archive.studies(Query(modality))
        assert study == studies[modality]
        ((series, count),) = archive.series(study, modality).items()
        assert count == images
        folder = tmp_path / modality
        folder.mkdir()
        assert archive.fetch(study, series, folder) == images
        assert len(list(folder.iterdir())) == images
        for file in folder.iterdir():
            dataset = dcmread(file)
            assert dataset.SeriesInstanceUID == series
            assert np.array_equal(dataset.pixel_array, PIXELS[dataset.SOPInstanceUID])
            if way != "C-GET":  # for which Orthanc unpacks
                assert (dataset.file_meta.TransferSyntaxUID == RLELossless) is (modality == "CT")
    assert archive.studies(Query("CT", since="20190101")) == [studies["CT"]]
    assert archive.studies(Query("MR", since="20190101")) == []
    assert archive.studies(Query("CT", studies=(studies["CT"], "1.2.3"))) == [studies["CT"]]
    assert archive.series(studies["CT"], "MR") == {}


@pytest.mark.parametrize("way", WAYS)
def test_large_images_arrive_bit_for_bit(way: str, archive: Archive, orthanc: Orthanc, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    make_series(tmp_path / "in", slices=3, shape=(512, 600), modality="CT", seed=list(WAYS).index(way))
    files = sorted((tmp_path / "in").iterdir())
    archive.store(files)
    expected = {one.SOPInstanceUID: one for one in map(dcmread, files)}
    first = dcmread(files[0])
    try:
        assert archive.fetch(first.StudyInstanceUID, first.SeriesInstanceUID, tmp_path / "out") == 3
    finally:
        delete_study(orthanc, str(first.StudyInstanceUID))
    for file in (tmp_path / "out").iterdir():
        came = dcmread(file)
        assert came == expected[came.SOPInstanceUID]
        assert came.PixelData == expected.pop(came.SOPInstanceUID).PixelData
    assert not expected


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_there_is_nothing_or_an_error_that_names_nobody(way: str, archive: Archive, tmp_path: Path) -> None:
    came, told = 0, ""
    try:
        came = archive.fetch("1.2.3", "1.2.3.4", tmp_path)  # `ArchiveSource` compares it with what should be there
    except ArchiveError as error:
        told = str(error)
    assert came == 0
    assert not any(word in told for word in (NAME, PATIENT_ID, str(tmp_path)))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/dicom-web", "dimse://ANY@127.0.0.1:9"])
def test_an_archive_that_is_not_there_is_told(url: str, tmp_path: Path) -> None:
    make_series(tmp_path, slices=1)
    archive = open_archive(url)
    for action in (
        lambda: archive.studies(Query("CT")),
        lambda: archive.series("1.2", "CT"),
        lambda: archive.store(sorted(tmp_path.iterdir())),
    ):
        with pytest.raises(ArchiveError, match="DICOM"):
            action()


def test_an_archive_that_does_not_know_us_says_so_at_once(tmp_path: Path) -> None:
    closed = {f"DicomAlwaysAllow{what}": False for what in ("Store", "Find", "Get", "Move")}
    with running_orthanc(tmp_path, **closed, DicomModalities={}, DicomCheckCalledAet=True) as orthanc:
        for url, told in (
            (orthanc.dimse, "our AE title 'MONAI_RD'"),
            (orthanc.dimse.replace("ORTHANC", "X"), "than 'X'"),
        ):
            with pytest.raises(ArchiveError, match=told) as raised:
                open_archive(url).studies(Query("CT"))
            assert raised.value.kind is Failure.REFUSED


def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_rd.integrations.archives.dicomweb import DicomWeb

    monkeypatch.setenv("MONAI_RD_DICOMWEB_USER", "us")
    monkeypatch.setenv("MONAI_RD_DICOMWEB_PASSWORD", "secret")
    assert DicomWeb("http://127.0.0.1:9/x")._session.auth == ("us", "secret")
    monkeypatch.setenv("MONAI_RD_DICOMWEB_TOKEN", "abc")
    assert DicomWeb("http://127.0.0.1:9/x")._session.headers["Authorization"] == "Bearer abc"

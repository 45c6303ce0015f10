"""Images by DICOMweb: written as they came or told why not, and stored for certain or told so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("requests", reason="the extra 'dicom' is not installed")

from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.archives.failures import ArchiveError, Failure
from tests.dicom_files import NAME, make_series
from tests.integrations.archives.web_server import DICOM_JSON, MULTIPART, PAGE, Answer, always, endless, site

pytestmark = pytest.mark.usefixtures("short")


def part(body: bytes, kind: bytes = b"application/dicom") -> bytes:
    return b"\r\n--xx\r\nContent-Type: " + kind + b"\r\n\r\n" + body


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Three images of the study and series "1.2" and "1.2.3"."""
    folder = tmp_path_factory.mktemp("images")

    def named(k: int, ds: Any) -> None:
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2", "1.2.3"

    make_series(folder, slices=3, change=named)
    return [file.read_bytes() for file in sorted(folder.iterdir())]


def fetched(tmp_path: Path, answer: Answer, study: str = "1.2", series: str = "1.2.3") -> int:
    with site(always(answer)) as (url, _):
        return open_archive(url).fetch(study, series, tmp_path)


def test_images_are_written_as_they_came(images: list[bytes], tmp_path: Path) -> None:
    body = b"a preamble" + b"".join(map(part, images)) + b"\r\n--xx--\r\nan epilogue"
    for number, length in enumerate((1, 7, 1000, len(body))):
        pieces = [body[at : at + length] for at in range(0, len(body), length)]
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "another").touch()
        assert fetched(folder, Answer(pieces, MULTIPART)) == 3
        assert [file.read_bytes() for file in sorted(folder.glob("*.dcm"))] == images
    whole = Answer(images[0], "application/dicom; transfer-syntax=1.2.840.10008.1.2.1")
    (tmp_path / "one").mkdir()
    assert fetched(tmp_path / "one", whole) == 1
    assert fetched(tmp_path / "one", Answer(status=204, kind=None)) == 0


FETCHED: dict[str, Callable[[list[bytes]], tuple[Answer, str]]] = {
    "a login page": lambda images: (Answer(PAGE, "text/html"), "a web page came"),
    "JSON": lambda images: (Answer(b"[]"), "came"),
    "no type": lambda images: (Answer(images[0], None), "came"),
    "no end": lambda images: (Answer([*map(part, images)], MULTIPART), "cut off"),
    "no end of the last": lambda images: (
        Answer([part(images[0]), part(images[1])[:-9]], MULTIPART),
        "cut off",
    ),
    "another boundary": lambda images: (
        Answer(part(images[0]) + b"\r\n--xx--", MULTIPART.replace("xx", "yy")),
        "cut off",
    ),
    "no boundary": lambda images: (Answer(part(images[0]), "multipart/related"), "came"),
    "nothing": lambda images: (Answer(b"", MULTIPART), "cut off"),
    "headers without end": lambda images: (Answer(b"--xx\r\n" + b"X: y" * 30_000, MULTIPART), "no end of headers"),
    "a part that is a page": lambda images: (Answer(part(PAGE, b"text/html") + b"\r\n--xx--", MULTIPART), "a part"),
    "a part that is no DICOM": lambda images: (Answer(part(PAGE) + b"\r\n--xx--", MULTIPART), "no DICOM"),
    "an empty part": lambda images: (Answer(part(b"") + b"\r\n--xx--", MULTIPART), "no DICOM"),
    "half an image": lambda images: (Answer(part(images[0][:200]) + b"\r\n--xx--", MULTIPART), "no DICOM"),
    "no end at all": lambda images: (Answer(endless(part(images[0])), MULTIPART), "more than 1 MB"),
    "another series": lambda images: (
        Answer(part(images[0].replace(b"1.2.3\0", b"1.2.4\0")) + b"\r\n--xx--", MULTIPART),
        "an image of another series",
    ),
    "gone": lambda images: (Answer(status=404), "HTTP 404"),
    "broken": lambda images: (Answer(status=500), "HTTP 500"),
}


@pytest.mark.parametrize("case", FETCHED)
def test_a_series_that_does_not_come_is_told(case: str, images: list[bytes], tmp_path: Path) -> None:
    answer, told = FETCHED[case](images)
    with pytest.raises(ArchiveError) as raised:
        fetched(tmp_path, answer)
    assert told in str(raised.value)
    assert not any(word in str(raised.value) for word in (NAME, "Secretname", str(tmp_path)))


def test_one_image_sent_often_counts_once(images: list[bytes], tmp_path: Path) -> None:
    assert fetched(tmp_path, Answer(part(images[0]) * 3 + b"\r\n--xx--", MULTIPART)) == 1


def stored(uid: str) -> bytes:
    return json.dumps({"00081199": {"Value": [{"00081155": {"Value": [uid]}}]}}).encode()


def failed(uid: str, reason: int) -> bytes:
    refused = {"00081155": {"Value": [uid]}, "00081197": {"Value": [reason]}}
    return json.dumps({"00081198": {"Value": [refused]}}).encode()


@dataclass
class Stow:
    """What a service says of a storing, whether it has the object then, and what is to come of it."""

    says: Callable[[str], Answer]
    has: bool
    told: str | None
    kind: Failure | None = None


STORED = {
    "named": Stow(lambda uid: Answer(stored(uid)), False, None),
    "named with a charset": Stow(lambda uid: Answer(stored(uid), f"{DICOM_JSON}; charset=utf-8"), False, None),
    "there already": Stow(lambda uid: Answer(failed(uid, 0x0111), status=409), True, None),
    "refused": Stow(lambda uid: Answer(failed(uid, 0x0122), status=409), False, "0x0122", Failure.IMPOSSIBLE),
    "refused by 202": Stow(lambda uid: Answer(failed(uid, 0xA700), status=202), False, "0xa700", Failure.DAMAGED),
    "refused by 200 with a charset": Stow(
        lambda uid: Answer(failed(uid, 0xA900), f"{DICOM_JSON}; charset=utf-8"), False, "0xa900", Failure.IMPOSSIBLE
    ),
    "refused without a reason": Stow(lambda uid: Answer(failed(uid, None), status=409), False, "0x0110"),  # type: ignore[arg-type]
    "another one named": Stow(lambda uid: Answer(stored("1.9")), False, "tells of no storing"),
    "no word, and there": Stow(lambda uid: Answer(b""), True, None),
    "no word, and not there": Stow(lambda uid: Answer(b""), False, "tells of no storing", Failure.DAMAGED),
    "XML, and there": Stow(lambda uid: Answer(b"<NativeDicomModel/>", "application/dicom+xml"), True, None),
    "a login page": Stow(lambda uid: Answer(PAGE, "text/html"), False, "tells of no storing"),
    "409 and a page": Stow(lambda uid: Answer(PAGE, "text/html", 409), False, "no storing", Failure.IMPOSSIBLE),
    "a redirect": Stow(
        lambda uid: Answer(status=301, headers={"Location": "/else"}), True, "sends us", Failure.REFUSED
    ),
    "a redirect that keeps the method": Stow(
        lambda uid: Answer(status=307, headers={"Location": "/else"}), True, "sends us", Failure.REFUSED
    ),
    "too large": Stow(lambda uid: Answer(status=413), False, "HTTP 413", Failure.IMPOSSIBLE),
    "not allowed": Stow(lambda uid: Answer(status=401), False, "HTTP 401", Failure.REFUSED),
    "busy": Stow(lambda uid: Answer(status=503, headers={"Retry-After": "7"}), False, "HTTP 503", Failure.UNAVAILABLE),
}


@pytest.mark.parametrize("case", STORED)
def test_what_is_not_stored_is_not_taken_for_it(case: str, images: list[bytes], tmp_path: Path) -> None:
    from pydicom import dcmread

    one = STORED[case]
    (tmp_path / "report.dcm").write_bytes(images[0])
    uid = dcmread(tmp_path / "report.dcm").SOPInstanceUID

    def answers(method: str, path: str) -> Answer:
        if method == "POST":
            return one.says(uid)
        return Answer(json.dumps([{"00080018": {"Value": [uid]}}] if one.has else []).encode())

    with site(answers) as (url, asked):
        archive = open_archive(url)
        if one.told is None:
            archive.store([tmp_path / "report.dcm"])
        else:
            with pytest.raises(ArchiveError) as raised:
                archive.store([tmp_path / "report.dcm"])
            assert one.told in str(raised.value)
            assert one.kind in (None, raised.value.kind)
            assert raised.value.wait == (7 if case == "busy" else 0)
    assert sum(method == "POST" for method, _ in asked) == 1

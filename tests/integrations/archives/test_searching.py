"""No study is missed, whatever an archive makes of limits, offsets and days, and no search is without end."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydicom import dcmread

pytest.importorskip("requests", reason="the extra 'dicom' is not installed")

from monai_rd.integrations.archives import dicomweb
from monai_rd.integrations.archives.archive import Query
from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.archives.failures import ArchiveError, Failure
from monai_rd.integrations.archives.searching import Days, Found, search_by_days
from tests.dicom_files import make_series
from tests.integrations.archives.web_server import Answer, site
from tests.servers import Orthanc, running_orthanc

NEW_YEAR = date(2026, 1, 1)


def studies_over(days: int, each: int = 3) -> dict[str, str]:
    """UIDs of studies, each with its day."""
    return {f"1.{day}.{n}": f"{NEW_YEAR + timedelta(day):%Y%m%d}" for day in range(days) for n in range(each)}


def matching(studies: Mapping[str, str], days: str) -> list[str]:
    first, _, last = days.partition("-")
    return [uid for uid, day in studies.items() if not days or (day and first <= day <= (last or "99999999"))]


@dataclass
class Service:
    """QIDO-RS as it should be; each attribute is a way in which some archive differs.

    Attributes:
        studies: StudyDate by StudyInstanceUID.
        most: results that it gives at most; 0 for any number.
        says: how it says that there are more: 206, 299 (a header), 413 (nothing else comes), or not at all.
        offsets: "right", "ignored", or "of the cut": applied to the results within limit and `most`.
        limits: "right", "ignored", or a limit that it refuses to exceed.
        order: of the results of each request.
    """

    studies: dict[str, str]
    most: int = 0
    says: int = 200
    offsets: str = "right"
    limits: Any = "right"
    by_day: bool = True
    order: Callable[[list[str]], list[str]] = list
    arrives: tuple[str, str] | None = None

    def __call__(self, method: str, path: str) -> Answer:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        assert asked.pop("ModalitiesInStudy") == "CT"
        limit, offset = int(asked.pop("limit", 0)), int(asked.pop("offset", 0))
        days = asked.pop("StudyDate", "")
        found = self.order(matching(self.studies, days if self.by_day else ""))
        assert not asked
        if isinstance(self.limits, int) and limit > self.limits:
            return Answer(status=400)
        if self.arrives is not None:  # after this answer
            self.studies, self.arrives = dict([self.arrives]) | self.studies, None
        most = min(number or len(found) for number in (self.most, limit if self.limits != "ignored" else 0))
        if self.offsets == "right":
            found = found[offset:]
        cut = self.most and len(found) > self.most
        if cut and self.says == 413:
            return Answer(b"", status=413)
        page = found[:most]
        if self.offsets == "of the cut":
            page = page[offset:]
        rows = [
            {
                "0020000D": {"vr": "UI", "Value": [uid]},
                "00080020": {"vr": "DA", "Value": [self.studies[uid]] * bool(day)},
            }
            for uid in page
            for day in [self.studies[uid]]
        ]
        warning = {"Warning": '299 pacs "There are additional results that can be requested"'}
        told = {"headers": warning} if cut and self.says == 299 else {"status": 206} if cut and self.says == 206 else {}
        return Answer(json.dumps(rows).encode(), **told)  # type: ignore[arg-type]


def shuffled(found: list[str]) -> list[str]:
    return random.sample(found, len(found))


FORTY = studies_over(40)
ARCHIVES: dict[str, Service] = {
    "few studies": Service(studies_over(1)),
    "as the standard says": Service(FORTY),
    "without offsets": Service(FORTY, offsets="ignored"),
    "offsets into the cut answer": Service(FORTY, offsets="of the cut"),
    "an order of its own each time": Service(FORTY, order=shuffled),
    "without limits": Service(FORTY, limits="ignored", offsets="ignored"),
    "a lower limit": Service(FORTY, limits=4),
    "no limit allowed": Service(FORTY, limits=0, offsets="ignored"),
    "a number of its own, told by 206": Service(FORTY, most=7, says=206),
    "a number of its own, told by 299": Service(FORTY, most=7, says=299, offsets="ignored"),
    "too many refused": Service(FORTY, most=7, says=413),
    "a number of its own, not told": Service(FORTY, most=7, offsets="of the cut"),
    "more than that on one day": Service(FORTY | studies_over(1, each=25), most=7, says=299),
    "more than the limit on one day": Service(FORTY | studies_over(1, each=25)),
    "the same without offsets": Service(FORTY | studies_over(1, each=25), offsets="of the cut"),
    "no days": Service(dict.fromkeys(FORTY, "")),
    "no days, and no offsets": Service(dict.fromkeys(FORTY, ""), offsets="ignored"),
    "some without a day": Service({"2.1": ""} | FORTY, offsets="of the cut"),
    "no search by day": Service(FORTY, by_day=False),
    "one arrives meanwhile": Service(dict(FORTY), arrives=("0.1", "20260102")),
    "days long ago and to come": Service({"1.1": "00010101", "1.2": "19010203", "1.3": "99991231"} | FORTY),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_every_study_is_found(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "_LIMITS", (10, 4, 0))
    service = ARCHIVES[case]
    expected = {uid for uid in service.studies if uid != "0.1"}
    with site(service) as (url, asked):
        assert expected <= set(open_archive(url).studies(Query("CT"))) <= set(service.studies)
    assert len(asked) <= 150


def test_a_small_archive_is_asked_three_times_and_believed() -> None:
    with site(Service(studies_over(4))) as (url, asked):
        assert len(open_archive(url).studies(Query("CT", since="20260102"))) == 9
    ranges = [parse_qs(urlsplit(path).query)["StudyDate"][0] for _, path in asked]
    assert ranges == ["20260102-", "20260102-20260103", "20260104-"]


def test_an_archive_that_leaves_studies_out_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    arrived = Service(dict(FORTY), arrives=("0.1", "20260102"))
    for service, told in ((Service(FORTY), False), (arrived, False), (Service(FORTY, most=7), True)):
        caplog.clear()
        with site(service) as (url, _):
            open_archive(url).studies(Query("CT"))
        assert ("raise its limit" in caplog.text) is told


@pytest.mark.parametrize(
    "service",
    [
        Service(studies_over(1, each=20), most=7, says=299, offsets="ignored"),
        Service(studies_over(1, each=20), most=7, says=413),
        Service(dict.fromkeys(FORTY, ""), most=7, says=206, offsets="ignored"),
        Service(FORTY, most=7, says=206, offsets="ignored", by_day=False),
    ],
)
def test_what_cannot_be_had_is_an_error_and_no_search_is_endless(service: Service) -> None:
    with site(service) as (url, asked), pytest.raises(ArchiveError, match="raise its limit") as raised:
        open_archive(url).studies(Query("CT"))
    assert raised.value.kind is Failure.REFUSED
    assert len(asked) <= 60


def test_other_warnings_say_nothing_of_more() -> None:
    headers = {"Warning": "299 pacs: The fuzzymatching parameter is not supported."}
    rows = [{"0020000E": {"Value": ["1.2"]}, "00201209": {"Value": [3]}}]
    with site(lambda method, path: Answer(json.dumps(rows).encode(), headers=headers)) as (url, asked):
        assert open_archive(url).series("1.1", "CT") == {"1.2": 3}
    assert len(asked) == 1


def test_series_come_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "_LIMITS", (10, 0))

    def answers(method: str, path: str) -> Answer:
        offset = int(parse_qs(urlsplit(path).query).get("offset", ["0"])[0])
        rows = [{"0020000E": {"Value": [f"1.{n}"]}} for n in range(offset, min(offset + 10, 25))]
        return Answer(json.dumps(rows).encode())

    with site(answers) as (url, asked):
        assert len(open_archive(url).series("1.1", "CT")) == 25
    assert len(asked) == 3


@pytest.mark.parametrize("most", [1, 7, 1000])
@pytest.mark.parametrize("told", [True, False])
def test_days_are_divided_whatever_the_number(most: int, told: bool) -> None:
    studies, asked = studies_over(20, each=1), 0

    def ask(days: Days) -> Found:
        nonlocal asked
        asked += 1
        found = matching(studies, str(days))
        return Found({uid: studies[uid] for uid in found[:most]}, told and len(found) > most)

    def rest(days: Days) -> set[str]:
        raise AssertionError("a day has one study")

    if told or most > 1:
        assert search_by_days(ask, rest, None) == studies.keys()
    assert asked <= 100


@contextmanager
def limited_orthanc(folder: Path) -> Iterator[tuple[Orthanc, set[str]]]:
    """An Orthanc that gives few answers, with more studies than that."""
    with running_orthanc(folder, LimitFindResults=3) as orthanc:
        web, uids = open_archive(orthanc.web), set()
        make_series(folder / "series", slices=1, shape=(8, 8))
        (file,) = (folder / "series").iterdir()
        for number in range(9):
            one = dcmread(file)
            one.StudyInstanceUID, one.SeriesInstanceUID = f"1.2.{number}", f"1.2.{number}.1"
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}.1.1"
            one.PatientID, one.StudyDate = str(number), f"202601{10 + number}"
            one.save_as(file)
            web.store([file])
            uids.add(str(one.StudyInstanceUID))
        yield orthanc, uids


def test_orthanc_misses_nothing_although_it_cuts_its_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with limited_orthanc(tmp_path) as (orthanc, uids):
        for url in (orthanc.web, orthanc.dimse):
            caplog.clear()
            assert set(open_archive(url).studies(Query("CT"))) == uids
            assert ("raise its limit" in caplog.text) is (url == orthanc.web)  # C-FIND says that it has more


def test_orthanc_is_asked_by_days_where_its_offsets_lead_astray(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb, "_LIMITS", (2, 0))
    before = set(open_archive(orthanc.web).studies(Query("MG")))
    uids = set()
    for number in range(5):
        make_series(tmp_path / str(number), slices=1, shape=(8, 8), modality="MG", seed=number)
        files = sorted((tmp_path / str(number)).iterdir())
        one = dcmread(files[0])
        one.StudyDate = f"202601{10 + number // 4}"  # four on one day
        one.save_as(files[0])
        uids.add(str(one.StudyInstanceUID))
        open_archive(orthanc.web).store(files)
    assert set(open_archive(orthanc.web).studies(Query("MG"))) == uids | before

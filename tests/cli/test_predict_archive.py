"""`monai-rd predict` from an archive into an archive, as a ward would have it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from typer.testing import CliRunner

pytest.importorskip("requests", reason="the extra 'dicom' is not installed")
pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")

from monai_rd.cli.app import app
from monai_rd.inference import Prediction, Predictor, prediction, read_scores, write_scores
from monai_rd.integrations import scoring
from monai_rd.integrations.archives.archive import Query
from monai_rd.integrations.archives.archive_url import open_archive
from monai_rd.integrations.archives.state import State
from tests.dicom_files import NAME, PATIENT_ID, make_series
from tests.integrations.archives.test_archive_endpoints import Shelf
from tests.servers import Orthanc

SERIES = {"good": {}, "gap": {"skip": (2,)}, "other": {"modality": "MR"}}


def predict(predictor: Predictor, state: Path, source: str, to: str, *words: str) -> tuple[int, str]:
    given = ["predict", "rd_ct", "--from", source, "--to", to, "--state", str(state), *words]
    done = CliRunner().invoke(app, [*given, "--", "--bundle_root", str(predictor.student.root), "--device", "cpu"])
    if isinstance(done.exception, (ValueError, OSError)):  # main() makes a line and exit code 2 of them
        return 2, str(done.exception)
    return done.exit_code, done.output


def scores(folder: Path) -> dict[str, dict[str, str]]:
    found = {}
    for file in folder.glob("scores*.csv"):
        with open(file, newline="") as stream:
            found |= {row["series"]: row for row in csv.DictReader(stream)}
    return found


def test_studies_are_answered_once_and_as_from_a_folder(predictor: Predictor, orthanc: Orthanc, tmp_path: Path) -> None:
    archive = open_archive(orthanc.web)

    def told(k: int, ds: Dataset) -> None:
        ds.WindowCenter = 40

    uids = {}
    for number, (name, options) in enumerate(SERIES.items()):
        uids[name], _ = make_series(tmp_path / "in" / name, seed=number, shape=(48, 48), change=told, **options)
        archive.store(sorted((tmp_path / "in" / name).iterdir()))
    state = tmp_path / "state"
    words = ("--modality", "CT", "--since", "20190101")
    code, printed = predict(predictor, state, orthanc.web, orthanc.dimse, *words)
    assert "1 studies scored, 1 left out" in printed
    assert code == 3  # of the gap
    rows = scores(state)
    assert {uid: row["problem"] for uid, row in rows.items()} == {uids["good"]: "", uids["gap"]: "MISSING_SLICES"}

    # The report lies in the study, and says what the folder gives.
    (one,) = [one for one in predictor(tmp_path / "in") if not one.problem and one.series == uids["good"]]
    assert [float(rows[uids["good"]][f"p_{name}"]) for name in one.probabilities] == pytest.approx(
        list(one.probabilities.values()), abs=1e-5
    )
    (series,) = archive.series(one.study, "SR")
    (tmp_path / "sr").mkdir()
    assert archive.fetch(one.study, series, tmp_path / "sr") == 1
    report = dcmread(next((tmp_path / "sr").iterdir()))
    assert report.PatientID == PATIENT_ID
    assert numbers_of(report) == pytest.approx(
        {f"Probability of {name}": 100 * p for name, p in one.probabilities.items()}, abs=1e-3
    )

    # Once: the next run has nothing to do, another state answers again and the archive has the report once.
    code, printed = predict(predictor, state, orthanc.web, orthanc.dimse, *words)
    assert (code, "0 studies scored, 0 left out" in printed) == (0, True)
    again = tmp_path / "again"
    moved = ("--listen", str(orthanc.listen))
    code, printed = predict(predictor, again, orthanc.dimse, str(tmp_path / "out"), *words, *moved)
    assert "1 studies scored, 1 left out" in printed
    assert scores(tmp_path / "out").keys() == rows.keys()
    assert len(list((tmp_path / "out" / "dicom").iterdir())) == 1
    predict(predictor, tmp_path / "third", orthanc.dimse, orthanc.web, *words)
    assert list(archive.series(one.study, "SR").values()) == [1]
    assert archive.studies(Query("SR")) == [one.study]

    for place in (state, again):
        assert [path.name for name in ("outbox", "incoming") for path in (place / name).iterdir()] == []
        for file in (path for path in place.rglob("*") if path.is_file()):
            content = file.read_bytes()
            assert not any(word.encode() in content for word in (NAME, "Secretname", PATIENT_ID, str(tmp_path)))
    assert json.loads(next(state.glob("scores_*.json")).read_text())["model"]["sha256"] == predictor.algorithm.sha256


def numbers_of(dataset: Dataset) -> dict[str, float]:
    """All numbers of a structured report by the names of what they measure."""
    found = {}
    for item in dataset.get("ContentSequence", ()):
        if item.ValueType == "NUM":
            found[item.ConceptNameCodeSequence[0].CodeMeaning] = float(item.MeasuredValueSequence[0].NumericValue)
        found |= numbers_of(item)
    return found


def test_an_archive_that_is_away_keeps_nothing_from_being_answered_later(
    predictor: Predictor, orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenacity.nap.time", type("time", (), {"sleep": staticmethod(lambda seconds: None)}))
    make_series(tmp_path / "in", seed=9, shape=(48, 48))
    away = "http://127.0.0.1:9/dicom-web"
    code, printed = predict(predictor, tmp_path / "state", str(tmp_path / "in"), away)
    assert code == 3
    assert "1 reports to be stored" in printed
    (waiting,) = (tmp_path / "state" / "outbox").rglob("*.dcm")
    assert dcmread(waiting).Modality == "SR"
    code, printed = predict(predictor, tmp_path / "state", away, orthanc.web, "--modality", "CT")
    assert code == 2  # nothing can be had, but what waited is stored
    assert "the archive could not be searched (no connection" in printed
    code, printed = predict(predictor, tmp_path / "state", orthanc.web + "/none", orthanc.web, "--modality", "CT")
    assert code == 2
    assert "(HTTP 404: is it the address of its DICOMweb" in printed
    assert list((tmp_path / "state" / "outbox").iterdir()) == []
    report = dcmread(next((tmp_path / "in").iterdir()))
    assert list(open_archive(orthanc.web).series(report.StudyInstanceUID, "SR").values()) == [1]


class Killed(BaseException):
    """What nothing catches, as a signal."""


KILLED: dict[str, tuple[Any, str, int, bool]] = {
    "before the reports": (scoring, "_objects", 2, False),
    "before the scores": (State, "keep", 2, False),
    "after the scores": (State, "keep", 2, True),
    "before it is let go": (State, "_let_go", 2, False),
    "before a mark": (State, "_marked", 2, False),
    "before the CSV": (prediction, "atomic_write", 1, False),
    "between CSV and JSON": (prediction, "atomic_write", 2, False),
    "after the JSON": (prediction, "atomic_write", 2, True),
}


@pytest.mark.parametrize("moment", KILLED)
@pytest.mark.parametrize("to", ["archive", "folder"])
def test_a_killed_run_leaves_no_study_in_two_files(
    moment: str, to: str, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at its second study, or while it writes the table; the next run goes on."""
    for study in ("1.1", "1.2", "1.3"):
        make_series(tmp_path / "archive" / study / f"{study}.1", seed=int(study[2]), shape=(48, 48), skip=(3,))
    shelf, state = Shelf(tmp_path / "archive"), tmp_path / "state"
    monkeypatch.setattr(scoring, "open_archive", lambda *given, **more: shelf)
    monkeypatch.setattr(scoring, "Predictor", lambda trained: predictor)
    monkeypatch.setattr(scoring, "TrainedBundle", lambda *given, **more: None)
    where, name, fatal, after = KILLED[moment]
    ordinary, count = getattr(where, name), 0

    def until_killed(*given: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        if count == fatal and not after:
            raise Killed
        done = ordinary(*given, **more)
        if count == fatal:
            raise Killed
        return done

    def released(dead: State) -> None:
        """All that the system does for a killed process."""
        dead._ended.set()
        dead._lock.release()

    place = {"archive": "http://archive", "folder": str(tmp_path / "out")}[to]
    words = ("--modality", "CT")
    with monkeypatch.context() as patch:
        patch.setattr(where, name, until_killed)
        patch.setattr(State, "close", released)
        if where not in (State, prediction) or name in ("keep", "_let_go"):
            patch.setattr(State, "list_scores", lambda *given: None)
        with pytest.raises(Killed):
            predict(predictor, state, "http://archive", place, *words)
    predict(predictor, state, "http://archive", place, *words)
    rows = []
    for file in (tmp_path / "out" if to == "folder" else state).glob("scores_*.csv"):
        with open(file, newline="") as stream:
            listed = [row["series"] for row in csv.DictReader(stream)]
        assert [row["series"] for row in json.loads(file.with_suffix(".json").read_text())["studies"]] == listed
        rows += listed
    expected = sorted(dcmread(next(path.rglob("*.dcm"))).SeriesInstanceUID for path in shelf.root.iterdir())
    assert sorted(rows) == expected
    assert [len(list((state / part).iterdir())) for part in ("claims", "incoming", "outbox", "scores")] == [0] * 4
    assert shelf.closed == {"folder": 2, "archive": 4}[to]  # of the killed run too


def test_scores_are_read_back_as_they_were_written(predictor: Predictor, tmp_path: Path) -> None:
    several = {"classes": ("a", "c"), "probabilities": {"a": 0.75, "b": 0.25, "c": 0.5}, "multi_label": True}
    made = [
        Prediction("1", "1", "2", flags=("X", "Y"), slices=((0.5, 0.25, 0.125),), model="ab", **several),
        Prediction("3", classes=(), probabilities=dict.fromkeys("abc", 0.25), multi_label=True, model="ab"),
        Prediction("4", "4", problem="MISSING_SLICES", message="a gap", model="ab"),
    ]
    write_scores(tmp_path / "scores.csv", made, "abc", {"sha256": "ab", "temperature": 1.0}, multi_label=True)
    assert read_scores(tmp_path / "scores.csv") == made
    one = Prediction("1", classes=("a|b",), probabilities={"a|b": 1.0}, model="ab")
    write_scores(tmp_path / "scores.csv", [one], ["a|b"], {"sha256": "ab", "temperature": 1.0})
    assert read_scores(tmp_path / "scores.csv") == [one]


def test_what_an_archive_must_be_told(predictor: Predictor, tmp_path: Path) -> None:
    for words, told in (
        ((), "--modality"),
        (("--modality", "CT", "--since", "yesterday"), "YYYYMMDD"),
    ):
        code, printed = predict(predictor, tmp_path / "state", "http://127.0.0.1:9/x", str(tmp_path / "out"), *words)
        assert code == 2
        assert told in printed
    assert predict(predictor, tmp_path / "state", "ftp://x", str(tmp_path / "out"), "--modality", "CT")[0] == 2

"""The page as a browser sees it: answers, pictures and files are those of `monai-rd predict`, and names stay out."""

from __future__ import annotations

import csv
import io
import logging
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from monai_rd.cli.app import app
from monai_rd.inference import Predictor, TrainedBundle
from monai_rd.integrations.explanation import explanation_picture, look, looks
from monai_rd.report.explaining import POSITIONS
from monai_rd.serve.answers import Drawn
from monai_rd.transforms import scope_of
from tests.dicom_files import NAME, PATIENT_ID, make_series
from tests.planted import names_in, planted_series
from tests.serve.serving import Browser, files_in, serving, zipped
from tests.trained import VOLUMES, trained_bundle
from tests.waiting import wait_for

SHAPE = (40, 44)


@pytest.fixture(scope="module")
def page(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with serving(predictor, tmp_path_factory.mktemp("server") / "uploads") as browser:
        yield browser


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_answers_scores_and_reports_are_those_of_predict(
    page: Browser, predictor: Predictor, tmp_path: Path, packed: bool
) -> None:
    for seed in range(2):
        make_series(tmp_path / NAME / str(seed), shape=SHAPE, seed=seed)
    make_series(tmp_path / NAME / "gap", shape=SHAPE, slices=8, skip=(3,), seed=2)
    (tmp_path / NAME / "._0.dcm").write_bytes(b"what a Mac adds")
    files = files_in(tmp_path / NAME)
    job = page.send({"a.zip": zipped(files)} if packed else files)
    root = str(predictor.student.root)
    words = ["predict", "rd_ct", "--from", str(tmp_path / NAME), "--to", str(tmp_path / "out")]
    said = CliRunner().invoke(app, [*words, "--", "--bundle_root", root, "--device", "cpu"])
    assert said.exit_code == 3, said.output
    expected = (tmp_path / "out" / "scores.csv").read_bytes().decode()
    assert page.get(f"{job}/scores.csv").text == expected
    with zipfile.ZipFile(io.BytesIO(page.get(f"{job}/reports.zip").body)) as reports:
        assert sorted(reports.namelist()) == sorted(path.name for path in (tmp_path / "out" / "dicom").iterdir())
        for name in reports.namelist():
            own, theirs = dcmread(io.BytesIO(reports.read(name))), dcmread(tmp_path / "out" / "dicom" / name)
            assert own.SOPInstanceUID == theirs.SOPInstanceUID
            assert own.ContentSequence == theirs.ContentSequence
    text = page.get(job).text
    first, second, _ = rows(expected)
    for row in (first, second):
        for column in ("p_clear", "p_opacity"):
            assert f"{100 * float(row[column]):.1f} %" in text
    assert "<b>MISSING_SLICES</b>" in text
    assert "CT, 6 files" in text
    assert NAME not in text
    assert PATIENT_ID not in text


def test_slices_are_shown_one_by_one_and_the_images_are_gone(
    page: Browser, predictor: Predictor, tmp_path: Path
) -> None:
    make_series(tmp_path / "in", slices=9, shape=SHAPE, spacing=(1.6, 0.8))
    job = page.send(files_in(tmp_path / "in"))
    (one,) = predictor(tmp_path / "in")
    found, best = looks(predictor, one), look(predictor, one)
    np.testing.assert_array_equal(found.best.heat, best.heat)  # of one pass and of another
    np.testing.assert_array_equal(found.best.pixels, best.pixels)
    chosen = list(one.probabilities).index(best.name)
    assert [round(slide.value, 7) for slide in found.slices] == [each[chosen] for each in one.slices]
    shown = found.slices[found.at]
    assert (shown.place, shown.name) == (best.place, best.name)
    assert max(slide.heat.max() for slide in found.slices) == pytest.approx(1, abs=0.01)  # one scale for all
    np.testing.assert_allclose(shown.heat / shown.heat.max(), best.heat / best.heat.max(), atol=1e-5)
    text = page.get(f"{job}/studies/1").text
    for slide in found.slices:
        assert f'<li data-value="{slide.value:.2f}">{slide.place}</li>' in text
    for place in (1, 2):
        shown = Image.open(io.BytesIO(page.get(f"{job}/studies/1/image/{place}").body))
        assert shown.size == (44, 80)  # square pixels: 44 * 0.8 mm x 40 * 1.6 mm
        heat = Image.open(io.BytesIO(page.get(f"{job}/studies/1/heat/{place}").body))
        assert (heat.size, heat.mode) == (shown.size, "RGB")
    best_one = page.get(f"{job}/studies/1/heat/0").body
    assert best_one == page.get(f"{job}/studies/1/heat/{found.at + 1}").body
    png = np.asarray(Image.open(io.BytesIO(page.get(f"{job}/studies/1/picture.png").body)))
    np.testing.assert_array_equal(png, explanation_picture(predictor, one))
    for address in ("studies/2", "studies/0", "studies/-1", "studies/1/heat/3", "studies/1/heat/-1", "studies/1/raw/1"):
        assert page.get(f"{job}/{address}", status=404).status == 404


def test_images_are_removed_after_drawing_and_all_with_the_upload(predictor: Predictor, tmp_path: Path) -> None:
    make_series(tmp_path / "in", shape=SHAPE)
    with serving(predictor, tmp_path / "files") as page:
        job = page.send(files_in(tmp_path / "in"))
        (folder,) = (tmp_path / "files").iterdir()
        assert folder.stat().st_mode & 0o077 == 0
        kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
        assert kinds == {".csv", ".json", ".zip", ".jpg", ".png"}
        assert not (folder / "uploads").exists()
        assert page.ask("DELETE", job).status == 204
        assert list((tmp_path / "files").iterdir()) == []
        page.get(job, status=404)


def test_an_upload_is_scored_while_a_picture_that_takes_long_is_drawn(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture is begun; another upload is started; between two steps of the picture it is answered."""
    begun, started, seen = threading.Event(), threading.Event(), list[str]()

    def slowly(*words: object) -> Drawn:
        *_, between = words
        if not begun.is_set():
            begun.set()
            assert started.wait(60)
            seen.append(page.state(second)["state"])
            between()  # type: ignore[operator]
            seen.append(page.state(second)["state"])
            assert page.state(first)["drawn"] == page.state(second)["drawn"] == {}  # its own picture waits
        return Drawn("clear", "", 1, ("a slice",), (1.0,))

    monkeypatch.setattr("monai_rd.serve.jobs.draw", slowly)
    make_series(tmp_path / "in", shape=SHAPE)
    (name, content), *_ = files_in(tmp_path / "in").items()
    with serving(predictor, tmp_path / "files") as page:
        first, second = page.new(), page.new()
        for job in (first, second):
            page.put(job, 1, name, content)
        page.ask("POST", f"{first}/start")
        assert begun.wait(60)
        page.ask("POST", f"{second}/start")
        started.set()
        wait_for(lambda: all(page.state(job)["drawn"] for job in (first, second)), seconds=60)
    assert seen == ["waiting", "done"]


def test_a_picture_that_nobody_waits_for_is_not_finished(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, removed, seen = threading.Event(), threading.Event(), list[str]()

    def slowly(*words: object) -> Drawn:
        *_, between = words
        begun.set()
        assert removed.wait(60)
        try:
            between()  # type: ignore[operator]
        finally:
            seen.append("ended")
        raise AssertionError("it goes on")

    monkeypatch.setattr("monai_rd.serve.jobs.draw", slowly)
    make_series(tmp_path / "in", shape=SHAPE)
    with serving(predictor, tmp_path / "files") as page:
        job = page.new()
        for number, (name, content) in enumerate(files_in(tmp_path / "in").items(), start=1):
            page.put(job, number, name, content)
        page.ask("POST", f"{job}/start")
        assert begun.wait(60)
        page.ask("DELETE", job)
        removed.set()
        wait_for(lambda: list((tmp_path / "files").iterdir()) == [])
    assert seen == ["ended"]
    assert "could not be drawn" not in caplog.text


def test_what_nobody_looks_at_is_removed(predictor: Predictor, tmp_path: Path) -> None:
    with serving(predictor, tmp_path / "files", seconds=0.0) as page:
        job = page.new()
        page.get(job, status=404)
        assert list((tmp_path / "files").iterdir()) == []


def test_an_error_by_the_policy_is_told(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    strict = TrainedBundle("rd_ct", bundle_root=str(bundle_of()), device="cpu", policy={"default": "error"})
    make_series(tmp_path / "in", shape=SHAPE, slices=8, skip=(3,))
    with serving(Predictor(strict), tmp_path / "files") as page:
        job = page.send(files_in(tmp_path / "in"))
        text = page.get(job).text
        page.get(f"{job}/scores.csv", status=409)
        wait_for(lambda: list((tmp_path / "files" / "000000").iterdir()) == [])  # removed after it is told
    assert "No answer" in text
    assert "MISSING_SLICES" in text
    assert str(tmp_path) not in text


def test_images_other_than_dicom(page: Browser, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 44), np.uint8)).save(tmp_path / "a.png")
    job = page.send({"Anna/b.webp": b"RIFF", "Anna/a.png": (tmp_path / "a.png").read_bytes()})
    text = page.get(job).text
    assert "1 study answered" in text
    assert "reports.zip" not in text
    assert "UNREADABLE_IMAGE" in text
    page.get(f"{job}/studies/1/heat/1")


def test_nothing_to_score(page: Browser) -> None:
    job = page.send({"notes.txt": b"of no interest"})
    assert "There is no image in these files that can be read." in page.get(job).text
    assert len(rows(page.get(f"{job}/scores.csv").text)) == 0


def test_the_report_of_the_training_is_linked_and_shown(predictor: Predictor, tmp_path: Path) -> None:
    with serving(predictor, tmp_path / "files") as page:
        assert "/report" not in page.get("/").text
        page.get("/report", status=404)
        (tmp_path / "report.html").write_text("<style>p { color: red }</style><p>how good it is")
        assert 'href="/report"' in page.get("/").text
        reply = page.get("/report")
    assert "how good it is" in reply.text
    assert "style-src 'unsafe-inline'" in reply.headers["content-security-policy"]


def test_several_labels(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    root = bundle_of(multi_label=True, class_names=["nodule", "effusion"])
    several = Predictor(TrainedBundle("rd_ct", bundle_root=str(root), device="cpu"))
    make_series(tmp_path / "in", shape=SHAPE)
    with serving(several, tmp_path / "files") as page:
        assert "It says of each whether it is there:" in page.get("/").text
        text = page.get(page.send(files_in(tmp_path / "in"))).text
    (one,) = several(tmp_path / "in")
    assert f"</span> {', '.join(one.classes) or 'none of the classes'}</p>" in text


def test_sets_and_flags_in_words(tmp_path: Path) -> None:
    scope = scope_of([{"modality": "CT", "body_part": "HEAD"}], [{"image": torch.linspace(0, 1, 64).reshape(1, 8, 8)}])
    unsure = Predictor(TrainedBundle(trained_bundle(tmp_path, limits=(0.0, 0.0, 0.0), scope=scope), device="cpu"))

    def change(_: int, ds: Dataset) -> None:
        ds.BodyPartExamined = "CHEST"

    make_series(tmp_path / "in", shape=SHAPE, change=change)
    with serving(unsure, tmp_path / "files") as page:
        text = page.get(page.send(files_in(tmp_path / "in"))).text
    assert "<b>any class</b>." in text
    assert "The network cannot tell." in text
    assert "<b>WRONG_BODY_PART</b>: another part of the body" in text


@pytest.mark.slow
def test_volumes(bundle_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POSITIONS, 3, 2)  # of occlusion, which takes half a minute with 5 x 5 x 5
    volumes = Predictor(TrainedBundle("rd_ct", bundle_root=str(bundle_of(**VOLUMES)), device="cpu"))
    make_series(tmp_path / "in", slices=20, shape=SHAPE, distance=5.0, spacing=(4.0, 4.0))
    with serving(volumes, tmp_path / "files") as page:
        job = page.send(files_in(tmp_path / "in"))
        text = page.get(f"{job}/studies/1").text
        assert "Bars: how warm each slice is." in text
        assert text.count("<li data-value=") == 4 * 32  # windows along the body, each of 32 slices
        page.get(f"{job}/studies/1/heat/128")


def test_no_name_anywhere_but_in_reports(page: Browser, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    planted_series(tmp_path / "in", seed=1, slices=3)
    (tmp_path / "in" / "PlantqzFileName.dcm").write_bytes(b"no image")
    job = page.send({f"PlantqzFolder/{name}": content for name, content in files_in(tmp_path / "in").items()})
    for address in ("", "/state", "/scores.csv", "/studies/1"):
        assert names_in(page.get(job + address).body) == set(), address
    assert names_in(caplog.text) == set()
    assert re.fullmatch(r"/jobs/[\w-]{22}", job)


def test_tags_and_class_names_are_text(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    root = bundle_of(class_names=[f"clear{script}", '"><img src=x onerror=alert(1)>'])
    hostile = Predictor(TrainedBundle("rd_ct", bundle_root=str(root), device="cpu"))

    def change(_: int, ds: Dataset) -> None:
        ds.SeriesDescription, ds.Manufacturer, ds.BodyPartExamined = f"thorax {script}", script, "<B>CHEST</B>"

    with disable_value_validation():
        make_series(tmp_path / "in", shape=SHAPE, change=change)
    with serving(hostile, tmp_path / "files") as page:
        job = page.send(
            {f"<img src=x onerror=alert(1)>/{name}": one for name, one in files_in(tmp_path / "in").items()}
        )
        shown = [page.get("/").text, page.get(job).text, page.get(f"{job}/studies/1").text]
    assert "&lt;script&gt;" in shown[1]
    for text in shown:
        assert re.findall(r"<script[^>]*>", text) == ['<script src="/page.js" defer>']
        assert not re.search(r"<img src=x|<B>|onerror=alert\(1\)>", text)

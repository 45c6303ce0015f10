"""What an audit finds in data that were spoilt on purpose, and in COVID-CT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import generate_uid

from monai_rd.datasets import DataList, find_studies, make_datalist
from monai_rd.datasets.audit import AuditReport, Finding, audit, fix, write_contact_sheet
from monai_rd.phantoms import phantom_cohort
from tests.dicom_files import SHARED, make_series


def drawn(seed: int, size: int = 96) -> Image.Image:
    """An image of its own: soft patches with fine structure."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    picture = np.zeros((size, size))
    for _ in range(30):
        cy, cx, width, height = (*random.uniform(0, 1, 2), random.uniform(0.02, 0.2), random.uniform(-1, 1))
        picture += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / width**2)
    picture = (picture - picture.min()) / np.ptp(picture) * 180 + 10
    return Image.fromarray(picture.astype(np.uint8))


def saved(image: Image.Image, path: Path, **options: int) -> dict:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return {"image": str(path), "id": "", "series": "", "patient": ""}


class Lists:
    """Lists of distinct images to which a test adds what is wrong."""

    def __init__(self, folder: Path, each: int = 4) -> None:
        self.folder, self.items = folder, {"training": [], "validation": [], "test": []}
        for place, split in enumerate(self.items):
            for number in range(2 * each):
                self.add(drawn(1000 * place + number), split, number % 2)

    def add(self, image: Image.Image, split: str, label: int, suffix: str = ".png", **options: int) -> dict:
        count = sum(map(len, self.items.values()))
        item = saved(image, self.folder / f"Anna_Secretname_{count}{suffix}", **options) | {"label": label}
        self.items[split].append(item)
        return item

    def audit(self) -> AuditReport:
        return audit(self.datalist())

    def datalist(self) -> DataList:
        return DataList(("clear", "covid"), **self.items)


@pytest.fixture
def lists(tmp_path: Path) -> Lists:
    return Lists(tmp_path)


def found(report: AuditReport, *kinds: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.kind in kinds]


COPIES = ("EXACT_DUPLICATE", "NEAR_DUPLICATE", "LABEL_CONFLICT")


def places(finding: Finding) -> set[tuple[str, int]]:
    return {(item.split, item.index) for item in finding.items}


def test_distinct_images_are_left_alone(lists: Lists) -> None:
    report = lists.audit()
    assert report.findings == []
    assert report.pairs == []
    assert report.counts["training"] == {"clear": 4, "covid": 4}


def changed(image: Image.Image, how: str) -> tuple[Image.Image, str, dict]:
    width, height = image.size
    if how == "half size":
        return image.resize((width // 2, height // 2)), ".png", {}
    if how == "brighter":
        return image.point([min(255, v + 40) for v in range(256)]), ".png", {}
    if how == "mirrored":
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), ".png", {}
    if how == "cropped":
        return image.crop((4, 3, width - 3, height - 4)), ".png", {}
    return image, ".jpg", {"quality": 40}


@pytest.mark.parametrize("how", ["JPEG", "half size", "brighter", "mirrored", "cropped"])
@pytest.mark.parametrize(("split", "label", "kind"), [("test", 1, "LABEL_CONFLICT"), ("training", 0, "NEAR_DUPLICATE")])
def test_near_copies(how: str, split: str, label: int, kind: str, lists: Lists) -> None:
    image, suffix, options = changed(drawn(0), how)
    lists.add(image, split, label, suffix, **options)
    (finding,) = found(lists.audit(), *COPIES)
    assert finding.kind == kind
    assert finding.severity == ("error" if split == "test" else "warning")
    assert places(finding) == {("training", 0), (split, 8)}
    assert finding.similarity is not None
    assert 0.96 <= finding.similarity < 1


def test_equal_pixels_in_other_files(lists: Lists) -> None:
    lists.add(drawn(3), "training", 1, ".bmp")
    lists.add(drawn(3), "test", 1, ".tif")
    (finding,) = found(lists.audit(), *COPIES)
    assert (finding.kind, finding.severity, finding.similarity) == ("EXACT_DUPLICATE", "error", 1.0)
    assert places(finding) == {("training", 3), ("training", 8), ("test", 8)}


def test_88_test_images_equal_to_training_images_are_all_found(tmp_path: Path) -> None:
    """The known fact of the brain-tumour set, at its size."""
    lists = Lists(tmp_path, each=0)
    for number in range(240):
        lists.add(drawn(number, 64), "training", number % 2)
    for number in range(240, 252):
        lists.add(drawn(number, 64), "validation", number % 2)
    for number in range(88):
        item = lists.add(drawn(900 + number, 64), "test", number % 2)
        shutil.copy(lists.items["training"][2 * number + number % 2]["image"], item["image"])
    report = lists.audit()
    exact = found(report, "EXACT_DUPLICATE")
    assert len(exact) == 88
    assert {next(iter(i.index for i in f.items if i.split == "test")) for f in exact} == set(range(88))
    assert not found(report, "NEAR_DUPLICATE", "LABEL_CONFLICT")
    assert len(report.pairs) == 30
    cleaned, removed = fix(lists.datalist(), report)
    assert (len(cleaned.training), len(cleaned.test), len(removed)) == (152, 88, 88)


def test_one_image_under_two_labels(lists: Lists) -> None:
    lists.add(drawn(2), "training", 1)
    lists.add(drawn(1), "test", 0)
    report = lists.audit()
    conflicts = found(report, "LABEL_CONFLICT")
    assert [places(f) for f in conflicts] == [{("training", 1), ("test", 8)}, {("training", 2), ("training", 8)}]
    cleaned, removed = fix(lists.datalist(), report)
    assert sorted((entry["split"], entry["index"]) for entry in removed) == [
        ("training", 1),
        ("training", 2),
        ("training", 8),
    ]
    assert len(cleaned.test) == 9
    assert fix(cleaned, audit(cleaned)) == (cleaned, [])


def test_patients_in_two_splits(lists: Lists) -> None:
    for split, index, patient in (("training", 0, "p"), ("training", 1, "q"), ("test", 0, "p"), ("test", 1, "r")):
        lists.items[split][index]["patient"] = patient
    report = lists.audit()
    (finding,) = found(report, "PATIENT_LEAK")
    assert places(finding) == {("training", 0), ("test", 0)}
    cleaned, (removed,) = fix(lists.datalist(), report)
    assert (removed["split"], removed["index"], removed["kind"]) == ("training", 0, "PATIENT_LEAK")
    assert not found(audit(cleaned), "PATIENT_LEAK")


def test_files_that_cannot_be_read_do_not_stop_it(lists: Lists) -> None:
    Path(lists.items["test"][2]["image"]).write_bytes(b"torn")
    Path(lists.items["training"][3]["image"]).unlink()
    report = lists.audit()
    said = {finding.message: places(finding) for finding in found(report, "UNREADABLE")}
    assert said == {
        "It cannot be read: UNREADABLE_IMAGE.": {("test", 2)},
        "It cannot be read: UNREADABLE_FILE.": {("training", 3)},
    }
    cleaned, removed = fix(lists.datalist(), report)
    assert (len(cleaned.test), len(cleaned.training), len(removed)) == (7, 7, 2)


def test_a_bug_of_a_loader_is_raised(lists: Lists) -> None:
    def load(item: dict) -> None:
        raise KeyError("typo")

    with pytest.raises(KeyError, match="typo"):
        audit(lists.datalist(), load)  # type: ignore[arg-type]


def test_classes_of_splits(tmp_path: Path) -> None:
    lists = Lists(tmp_path, each=0)
    for number in range(60):
        lists.add(drawn(number, 48), "training", int(number < 30))
        lists.add(drawn(100 + number, 48), "test", int(number < 50))
    said = [(finding.severity, finding.message) for finding in found(lists.audit(), "CLASS_BALANCE")]
    assert ("error", "Class 'clear' has no item in validation.") in said
    assert any(s == "warning" and "training 30/30; validation 0/0; test 10/50" in m for s, m in said)


def test_text_in_the_pixels(lists: Lists) -> None:
    image = drawn(77, 192)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 192, 24), 0)
    draw.text((6, 4), "L 12:04 KV 120", 255, ImageFont.load_default(16))
    lists.add(image, "test", 0)
    (finding,) = found(lists.audit(), "BURNED_IN_TEXT")
    assert places(finding) == {("test", 8)}


def test_outliers(lists: Lists) -> None:
    for number in range(20):
        lists.add(drawn(300 + number), "training", number % 2)
    lists.add(Image.fromarray(np.full((96, 96), 255, np.uint8)), "test", 0)
    lists.add(drawn(401, 1500), "test", 1)
    report = lists.audit()
    assert ("test", 8) in set.union(*map(places, found(report, "OUTLIER_INTENSITY")))
    (size,) = found(report, "OUTLIER_SIZE")
    assert places(size) == {("test", 9)}


def _without_window(number: int, dataset: pydicom.Dataset) -> None:
    del dataset.WindowCenter, dataset.WindowWidth


@pytest.mark.parametrize(("modality", "outliers"), [("CT", 1), ("MR", 0)])
def test_values_without_a_unit_are_not_compared(modality: str, outliers: int, tmp_path: Path) -> None:
    """One series of ten has a hundred times the values: in HU that is wrong, in MR it is another scanner."""
    for number in range(10):
        rescale = (200.0 if number == 9 else 2.0 + number / 100, 0.0)
        place = tmp_path / f"{number % 2}" / str(number)
        make_series(place, modality=modality, rescale=rescale, seed=number, change=_without_window)
    items = [item | {"label": n % 2} for n, item in enumerate(find_studies(tmp_path).items)]
    report = audit(DataList(("a", "b"), items, [], []))
    assert len(found(report, "OUTLIER_INTENSITY")) == outliers


def test_a_scanner_that_tells_the_label(tmp_path: Path) -> None:
    items = []
    for number in range(40):
        label = number % 2

        def scanner(k: int, ds: object, maker: str = "AB"[label if number < 36 else 0]) -> None:
            ds.Manufacturer, ds.ManufacturerModelName = f"maker {maker}", "one"  # type: ignore[attr-defined]

        make_series(tmp_path / str(number), slices=3, shape=(16, 16), change=scanner, seed=number)
    for item in find_studies(tmp_path).items:
        items.append(item | {"label": int(Path(item["image"][0]).parent.name) % 2})
    report = audit(DataList(("a", "b"), items[:30], items[30:35], items[35:]))
    (risk,) = found(report, "SHORTCUT_RISK")
    assert "scanner (Manufacturer, ManufacturerModelName) tells the label" in risk.message
    assert "SECRET" not in json.dumps(report.as_dict())
    shuffled = [item | {"label": number // 2 % 2} for number, item in enumerate(items)]
    assert not found(audit(DataList(("a", "b"), shuffled[:30], shuffled[30:35], shuffled[35:])), "SHORTCUT_RISK")


def test_volumes_are_compared_too(tmp_path: Path) -> None:
    for number in range(6):
        make_series(tmp_path / str(number), slices=4, shape=(40, 40), seed=number // 2)
    items = [item | {"label": 0} for item in find_studies(tmp_path).items]
    exact = found(audit(DataList(("a", "b"), items, [], [])), "EXACT_DUPLICATE")
    assert len(exact) == 3
    assert all(item.id.startswith("1.2.826") for finding in exact for item in finding.items)


def test_studies_of_different_phantoms_are_no_copies_and_a_changed_one_is(tmp_path: Path) -> None:
    """Phantoms are more alike than patients are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai_rd.phantoms.cohort.SPLIT", {"training": 14, "validation": 2, "test": 2})
        cohort = Path(phantom_cohort(tmp_path))
    uid = generate_uid()
    for file in (cohort / "study_0003").iterdir():
        ds = pydicom.dcmread(file)
        noise = np.random.default_rng(0).normal(0, 30, (ds.Rows, ds.Columns))
        ds.PixelData = (ds.pixel_array + noise).clip(0, 4095).astype("<u2").tobytes()
        ds.SeriesInstanceUID = uid
        (cohort / "again").mkdir(exist_ok=True)
        ds.save_as(cohort / "again" / file.name)
    with open(cohort / "labels.csv", "a") as table:
        table.write("again,clear,other,test\n")
    (finding,) = found(audit(make_datalist(cohort)), *COPIES)
    assert places(finding) == {("training", 3), ("test", 2)}
    assert finding.kind == "LABEL_CONFLICT"


def test_nothing_tells_a_file_or_a_patient(lists: Lists, tmp_path: Path) -> None:
    lists.items["training"][0]["patient"] = lists.items["test"][0]["patient"] = "pseudonym"
    lists.add(drawn(5), "test", 0)
    report = lists.audit()
    with open(tmp_path / "table.txt", "w") as file:
        from rich.console import Console

        Console(file=file, width=200).print(report.table())
    said = json.dumps(report.as_dict()) + (tmp_path / "table.txt").read_text() + str(fix(lists.datalist(), report)[1])
    assert "LABEL_CONFLICT" in said
    for secret in ("Secretname", "Anna", str(tmp_path), "pseudonym"):
        assert secret not in said


def test_a_sheet_of_pairs_is_a_picture(lists: Lists, tmp_path: Path) -> None:
    lists.add(drawn(5), "test", 0)
    lists.add(changed(drawn(6), "JPEG")[0], "test", 0, ".jpg", quality=30)
    report = lists.audit()
    write_contact_sheet(report.pairs, tmp_path / "pairs.png")
    sheet = np.asarray(Image.open(tmp_path / "pairs.png"))
    assert sheet.ndim == 3
    left, right = report.pairs[0].pictures
    assert np.array_equal(left, right)
    assert sheet.std() > 20
    write_contact_sheet([], tmp_path / "none.png")
    assert Image.open(tmp_path / "none.png").size[0] == sheet.shape[1]


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "COVID-CT").is_dir(), reason="COVID-CT is not here; the project does not ship it")
def test_covid_cts_contradicting_pairs() -> None:
    lists = make_datalist(SHARED / "COVID-CT")
    report = audit(lists)
    conflicts = [
        {Path(lists[item.split][item.index]["image"]).name for item in finding.items}
        for finding in found(report, "LABEL_CONFLICT")
    ]
    assert sorted(conflicts, key=str) == sorted(
        [{"71%0.jpg", "kjr-21-e24-p5-29.png"}, {"71%1.jpg", "kjr-21-e24-p5-31.png"}], key=str
    )
    assert len(found(report, "NEAR_DUPLICATE")) < 30
    assert len(report.pairs) >= 2
    cleaned, removed = fix(lists, report)
    assert len(cleaned.test) == 203
    assert len(cleaned.training) + len(cleaned.validation) + len(removed) == 543

"""A whole audit, and the list without what it found; in COVID-CT too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from monai_rd.datasets import make_datalist
from monai_rd.datasets.audit import audit, fix
from monai_rd.datasets.splits import SPLITS
from tests.datasets.audit.spoilt import Lists, drawn, found, multi_label_lists, places
from tests.dicom_files import SHARED


def test_distinct_images_are_left_alone(lists: Lists) -> None:
    report = lists.audit()
    assert report.findings == []
    assert report.pairs == []
    assert report.counts["training"] == {"clear": 4, "covid": 4}


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


def test_a_bug_of_a_loader_is_raised(lists: Lists) -> None:
    def load(item: dict) -> None:
        raise KeyError("typo")

    with pytest.raises(KeyError, match="typo"):
        audit(lists.datalist(), load)  # type: ignore[arg-type]


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


def test_multi_label_lists(tmp_path: Path) -> None:
    made = multi_label_lists(tmp_path)
    for number, label in ((0, [1.0, 0.0, 1.0]), (1, [0.0, 0.0, 0.0])):
        copy = made.training[0] | {"image": str(tmp_path / f"copy{number}.png"), "label": label}
        Image.open(made.training[0]["image"]).save(copy["image"])
        made.test.append(copy)
    report = audit(made)
    assert report.counts == {s: dict(zip("abc", made.class_counts(s), strict=True)) for s in SPLITS}
    (conflict,) = [finding for finding in report.findings if finding.kind == "LABEL_CONFLICT"]
    assert {item.label for item in conflict.items} == {"a | c", "none"}
    (risk,) = [finding for finding in report.findings if finding.kind == "SHORTCUT_RISK"]
    assert "The size of the images tells class 'b'" in risk.message
    assert not [finding for finding in report.findings if finding.kind == "CLASS_BALANCE"]
    cleaned, removed = fix(made, report)
    assert cleaned.multi_label
    gone = [(one["split"], one["label"]) for one in removed]
    assert sorted(gone) == [("test", "a | c"), ("test", "none"), ("training", "a | c")]


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

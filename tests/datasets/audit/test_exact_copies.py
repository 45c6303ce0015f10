"""Images of equal pixels, in whatever files."""

from __future__ import annotations

import shutil
from pathlib import Path

from monai_rd.datasets import DataList, find_studies
from monai_rd.datasets.audit import audit, fix
from tests.datasets.audit.spoilt import COPIES, Lists, drawn, found, places
from tests.dicom_files import make_series


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


def test_volumes_are_compared_too(tmp_path: Path) -> None:
    for number in range(6):
        make_series(tmp_path / str(number), slices=4, shape=(40, 40), seed=number // 2)
    items = [item | {"label": 0} for item in find_studies(tmp_path).items]
    exact = found(audit(DataList(("a", "b"), items, [], [])), "EXACT_DUPLICATE")
    assert len(exact) == 3
    assert all(item.id.startswith("1.2.826") for finding in exact for item in finding.items)

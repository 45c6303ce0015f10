"""Images alike, but not equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from monai_rd.datasets import make_datalist
from monai_rd.datasets.audit import audit
from monai_rd.phantoms import phantom_cohort
from tests.datasets.audit.spoilt import COPIES, Lists, changed, drawn, found, places


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

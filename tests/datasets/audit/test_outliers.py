"""Images far from the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from monai_rd.datasets import DataList, find_studies
from monai_rd.datasets.audit import audit
from tests.datasets.audit.spoilt import Lists, drawn, found, places
from tests.dicom_files import make_series


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

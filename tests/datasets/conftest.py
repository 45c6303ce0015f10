"""A folder of pictures and one of DICOM studies, from which lists are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_rd.phantoms import phantom_cohort
from tests.datasets.labelled_files import picture


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """40 images of 20 patients, a.png of each patient's two shown early and late in the list."""
    for number in range(40):
        picture(tmp_path / "data" / f"{number:02d}.png", number)
    return tmp_path / "data"


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai_rd.phantoms.cohort.SPLIT", {"training": 4, "validation": 2, "test": 2})
        return Path(phantom_cohort(tmp_path_factory.mktemp("cohort")))

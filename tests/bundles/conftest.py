"""A small cohort and a short training of each bundle, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from monai_rd.data import phantom_cohort
from monai_rd.data.phantoms.writing import Identity
from tests.bundles.commands import PLANTED, copied, train


@pytest.fixture(scope="session")
def cohort_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Give a cohort of some of a modality's phantoms; most of the tests are of CT. Their headers tell too much."""
    made: dict[str, str] = {}
    plain = Identity.header

    def planted(*which: Any) -> Dataset:
        header = plain(*which)
        for keyword, value in PLANTED.items():
            setattr(header, keyword, value)
        return header

    def of(modality: str) -> str:
        if modality not in made:
            with pytest.MonkeyPatch.context() as patch:
                sizes = (32, 12, 20) if modality == "ct" else (16, 8, 8)
                split = dict(zip(("training", "validation", "test"), sizes, strict=True))
                patch.setattr("monai_rd.data.phantoms.cohort.SPLIT", split)
                patch.setattr(Identity, "header", planted)
                made[modality] = phantom_cohort(tmp_path_factory.mktemp("cohort"), modality)
        return made[modality]

    return of


@pytest.fixture(scope="session")
def trained_of(
    tmp_path_factory: pytest.TempPathFactory, cohort_of: Callable[[str], str]
) -> Callable[[str], tuple[Path, str]]:
    """Give a copy of a bundle after a short training, and what that printed."""
    made: dict[str, tuple[Path, str]] = {}

    def of(modality: str) -> tuple[Path, str]:
        if modality not in made:
            root = copied(modality, tmp_path_factory.mktemp("trained"))
            page = ("--report_page", "true") if modality == "ct" else ()  # drawing it takes seconds
            made[modality] = root, train(root, cohort_of(modality), *page)
        return made[modality]

    return of

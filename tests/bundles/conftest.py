"""A small cohort and a short training of each bundle, made once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from pydicom.dataset import Dataset

from monai_rd.phantoms import phantom_cohort, phantom_pool
from monai_rd.phantoms.writing import Identity
from tests.bundles.commands import PLANTED, copied, train

Once = Callable[[str, Callable[[Path], str]], tuple[Path, str]]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a folder in one of the test processes, for all of them; give it, and what making it told."""
    own = tmp_path_factory.getbasetemp()
    place = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, make: Callable[[Path], str]) -> tuple[Path, str]:
        folder, told = place / name, place / f"{name}.txt"
        with FileLock(place / f"{name}.lock"):
            if not told.exists():
                told.write_text(make(folder))
        return folder, told.read_text()

    return made


@pytest.fixture(scope="session")
def cohort_of(once: Once) -> Callable[[str], str]:
    """Give a cohort of some of a modality's phantoms; most of the tests are of CT. Their headers tell too much."""
    plain = Identity.header

    def planted(*which: Any) -> Dataset:
        header = plain(*which)
        for keyword, value in PLANTED.items():
            setattr(header, keyword, value)
        return header

    def of(modality: str) -> str:
        def make(folder: Path) -> str:
            with pytest.MonkeyPatch.context() as patch:
                sizes = (32 if modality == "ct" else 16, 8, 8)
                split = dict(zip(("training", "validation", "test"), sizes, strict=True))
                patch.setattr("monai_rd.phantoms.cohort.SPLIT", split)
                patch.setattr(Identity, "header", planted)
                return phantom_cohort(folder, modality)

        return once(f"cohort_{modality}", make)[1]

    return of


@pytest.fixture(scope="session")
def pool_of(once: Once, cohort_of: Callable[[str], str]) -> Callable[[str], str]:
    """Give twelve unlabelled phantoms of a modality."""

    def of(modality: str) -> str:
        def make(folder: Path) -> str:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("monai_rd.phantoms.cohort.POOL", 12)
                return phantom_pool(cohort_of(modality))

        return once(f"pool_{modality}", make)[1]

    return of


@pytest.fixture(scope="session")
def trained_of(
    once: Once, tmp_path_factory: pytest.TempPathFactory, cohort_of: Callable[[str], str]
) -> Callable[[str], tuple[Path, str]]:
    """Give a copy of a bundle after a short training, and what that printed."""
    own: dict[str, Path] = {}

    def of(modality: str) -> tuple[Path, str]:
        def make(folder: Path) -> str:
            page = ("--report_page", "true") if modality == "ct" else ()  # drawing it takes seconds
            return train(copied(modality, folder), cohort_of(modality), *page)

        folder, printed = once(f"trained_{modality}", make)
        if modality not in own:
            own[modality] = tmp_path_factory.mktemp("trained") / f"rd_{modality}"
            shutil.copytree(folder / f"rd_{modality}", own[modality])
        return own[modality], printed

    return of


@pytest.fixture(scope="session")
def cohort(cohort_of: Callable[[str], str]) -> str:
    return cohort_of("ct")


@pytest.fixture(scope="session")
def trained(trained_of: Callable[[str], tuple[Path, str]]) -> tuple[Path, str]:
    return trained_of("ct")

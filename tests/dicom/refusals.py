"""What every refusal of a DICOM series holds, and headers that lack something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydicom.dataset import Dataset

from monai_rd.dicom import load_series
from monai_rd.errors import DicomSeriesError
from tests.dicom_files import PATIENT_ID


def refusal(source: Any, kind: type[DicomSeriesError], code: str, uid: str | None) -> DicomSeriesError:
    """Check that a source is refused with this class, code and UID and without any word on the patient."""
    with pytest.raises(kind) as caught:
        load_series(source)
    error = caught.value
    assert type(error) is kind
    assert error.code == code
    assert error.series_uid == uid
    text = str(error)
    assert uid is None or uid in text
    for secret in ("Secretname", "Anna", PATIENT_ID, "SECRET", "/", ".dcm"):
        assert secret not in text.replace("dcmdjpeg", "").replace("MONOCHROME1/2", "").replace(" / ", "")
    # A traceback prints causes as well.
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    return error


def without(*keywords: str) -> Callable[[int, Dataset], None]:
    def change(k: int, ds: Dataset) -> None:
        for keyword in keywords:
            delattr(ds, keyword)

    return change

"""The page about data says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from monai_rd.audit.findings import KINDS
from monai_rd.data import errors
from monai_rd.data.errors import DicomSeriesError, StudyError

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_code_is_explained_and_no_other() -> None:
    kinds = {
        kind.code: kind.tolerable
        for name in errors.__all__
        if name.endswith("Error") and (kind := getattr(errors, name)) not in (StudyError, DicomSeriesError)
    }
    table = PAGE.split("| code |", 1)[1].split("\n\n", 1)[0]
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| .* \| ?(.*?) ?\|$", table, re.MULTILINE))
    assert rows == kinds


def test_every_finding_is_explained() -> None:
    page = PAGE.replace(
        "`OUTLIER_INTENSITY`, `_SIZE`, `_SPACING`", " ".join(f"OUTLIER_{w}" for w in ("INTENSITY", "SIZE", "SPACING"))
    )
    assert [kind for kind in KINDS if kind not in page] == []

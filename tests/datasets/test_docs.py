"""The page about data says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from monai_rd import errors
from monai_rd.datasets.audit.findings import KINDS
from monai_rd.datasets.published import PUBLISHED
from monai_rd.datasets.splits import SPLITS
from monai_rd.errors import DicomSeriesError, OutOfScopeError, StudyError

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
PAGE = "\n\n".join((GUIDE / f"{name}.md").read_text(encoding="utf-8") for name in ("data", "dicom", "lists"))


def test_every_code_is_explained_and_no_other() -> None:
    kinds = {
        kind.code: kind.tolerable
        for name in errors.__all__
        if name.endswith("Error")
        and (kind := getattr(errors, name)) not in (StudyError, DicomSeriesError, OutOfScopeError)
    }
    table = PAGE.split("| code |", 1)[1].split("\n\n", 1)[0]
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| .* \| ?(.*?) ?\|$", table, re.MULTILINE))
    assert rows == kinds


def test_every_finding_is_explained() -> None:
    page = PAGE.replace(
        "`OUTLIER_INTENSITY`, `_SIZE`, `_SPACING`", " ".join(f"OUTLIER_{w}" for w in ("INTENSITY", "SIZE", "SPACING"))
    )
    assert [kind for kind in KINDS if kind not in page] == []


def test_every_published_data_set_is_in_the_table() -> None:
    table = PAGE.split("## Published data sets", 1)[1].split("\n\n")[2]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    rows = {name: (classes, sizes) for name, _, classes, sizes in cells}
    assert set(rows) == {one.name for one in PUBLISHED}
    before = ""
    for one in PUBLISHED:
        classes, sizes = rows[one.name]
        before = before if classes == "the same" else classes.removesuffix("; multi-label")
        assert before == ", ".join(one.class_names)
        published = [str(one.sizes.get(split, sum(counts))) for split, counts in one.counts.items()]
        assert [size for size in re.findall(r"\d+", sizes)] == published
        assert ("/" in sizes) == (list(one.counts) != ["all"])
        assert all(split in (*SPLITS, "all") for split in one.counts)

"""What a network could read the label from."""

from __future__ import annotations

import json
from pathlib import Path

from monai_rd.datasets import DataList, find_studies
from monai_rd.datasets.audit import audit
from tests.datasets.audit.spoilt import found
from tests.dicom_files import make_series


def test_a_scanner_that_tells_the_label(tmp_path: Path) -> None:
    items = []
    for number in range(40):
        label = number % 2

        def scanner(k: int, ds: object, maker: str = "AB"[label if number < 36 else 0]) -> None:
            ds.Manufacturer, ds.ManufacturerModelName = f"maker {maker}", "one"  # type: ignore[attr-defined]

        make_series(tmp_path / str(number), slices=3, shape=(16, 16), change=scanner, seed=number)
    for item in find_studies(tmp_path).items:
        items.append(item | {"label": int(Path(item["image"][0]).parent.name) % 2})
    report = audit(DataList(("a", "b"), items[:30], items[30:35], items[35:]))
    (risk,) = found(report, "SHORTCUT_RISK")
    assert "scanner (Manufacturer, ManufacturerModelName) tells the label" in risk.message
    assert "SECRET" not in json.dumps(report.as_dict())
    shuffled = [item | {"label": number // 2 % 2} for number, item in enumerate(items)]
    assert not found(audit(DataList(("a", "b"), shuffled[:30], shuffled[30:35], shuffled[35:])), "SHORTCUT_RISK")

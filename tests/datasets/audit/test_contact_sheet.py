"""The picture of suspicious pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from monai_rd.datasets.audit import write_contact_sheet
from tests.datasets.audit.spoilt import Lists, changed, drawn


def test_a_sheet_of_pairs_is_a_picture(lists: Lists, tmp_path: Path) -> None:
    lists.add(drawn(5), "test", 0)
    lists.add(changed(drawn(6), "JPEG")[0], "test", 0, ".jpg", quality=30)
    report = lists.audit()
    write_contact_sheet(report.pairs, tmp_path / "pairs.png")
    sheet = np.asarray(Image.open(tmp_path / "pairs.png"))
    assert sheet.ndim == 3
    left, right = report.pairs[0].pictures
    assert np.array_equal(left, right)
    assert sheet.std() > 20
    write_contact_sheet([], tmp_path / "none.png")
    assert Image.open(tmp_path / "none.png").size[0] == sheet.shape[1]

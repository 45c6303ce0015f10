"""Files that cannot be read."""

from __future__ import annotations

from pathlib import Path

from monai_rd.datasets.audit import fix
from tests.datasets.audit.spoilt import Lists, found, places


def test_files_that_cannot_be_read_do_not_stop_it(lists: Lists) -> None:
    Path(lists.items["test"][2]["image"]).write_bytes(b"torn")
    Path(lists.items["training"][3]["image"]).unlink()
    report = lists.audit()
    said = {finding.message: places(finding) for finding in found(report, "UNREADABLE")}
    assert said == {
        "It cannot be read: UNREADABLE_IMAGE.": {("test", 2)},
        "It cannot be read: UNREADABLE_FILE.": {("training", 3)},
    }
    cleaned, removed = fix(lists.datalist(), report)
    assert (len(cleaned.test), len(cleaned.training), len(removed)) == (7, 7, 2)

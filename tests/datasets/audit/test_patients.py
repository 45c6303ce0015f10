"""Patients in several splits."""

from __future__ import annotations

from monai_rd.datasets.audit import audit, fix
from tests.datasets.audit.spoilt import Lists, found, places


def test_patients_in_two_splits(lists: Lists) -> None:
    for split, index, patient in (("training", 0, "p"), ("training", 1, "q"), ("test", 0, "p"), ("test", 1, "r")):
        lists.items[split][index]["patient"] = patient
    report = lists.audit()
    (finding,) = found(report, "PATIENT_LEAK")
    assert places(finding) == {("training", 0), ("test", 0)}
    cleaned, (removed,) = fix(lists.datalist(), report)
    assert (removed["split"], removed["index"], removed["kind"]) == ("training", 0, "PATIENT_LEAK")
    assert not found(audit(cleaned), "PATIENT_LEAK")

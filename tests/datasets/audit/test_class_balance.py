"""Classes that a split lacks, or has too few of."""

from __future__ import annotations

from pathlib import Path

from tests.datasets.audit.spoilt import Lists, drawn, found


def test_classes_of_splits(tmp_path: Path) -> None:
    lists = Lists(tmp_path, each=0)
    for number in range(60):
        lists.add(drawn(number, 48), "training", int(number < 30))
        lists.add(drawn(100 + number, 48), "test", int(number < 50))
    said = [(finding.severity, finding.message) for finding in found(lists.audit(), "CLASS_BALANCE")]
    assert ("error", "Class 'clear' has no item in validation.") in said
    assert any(s == "warning" and "training 30/30; validation 0/0; test 10/50" in m for s, m in said)

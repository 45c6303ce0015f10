"""The share of each class of a multi-label list in each split."""

from __future__ import annotations

from pathlib import Path

from monai_rd.datasets.audit import audit
from monai_rd.datasets.splits import SPLITS
from tests.datasets.audit.spoilt import multi_label_lists


def test_the_shares_of_each_class_are_compared(tmp_path: Path) -> None:
    made = multi_label_lists(tmp_path)
    for item in made.test:
        item["label"][0] = 1.0
    for item in made.validation:
        item["label"][2] = 0.0
    report = audit(made, workers=1)
    said = {(f.severity, f.message) for f in report.findings if f.kind == "CLASS_BALANCE"}
    a = "; ".join(f"{split} {made.class_counts(split)[0]} of {len(made[split])}" for split in SPLITS)
    assert said == {
        ("error", "Class 'a': every item of test has it."),
        ("error", "Class 'c': no item of validation has it."),
        ("warning", f"The share of class 'a' differs between splits: {a}."),
    }

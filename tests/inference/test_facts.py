"""What is told of a scanner: its name if the manufacturer is known, else nothing that could be somebody's."""

from __future__ import annotations

import re

import pytest
import torch

from monai_rd.inference.facts import study_facts


def scanner(name: str) -> object:
    return study_facts({"image": torch.rand(1, 3, 8, 8), "scanner": name}).get("scanner")


@pytest.mark.parametrize(
    "name", ["SIEMENS SOMATOM Force", "GE MEDICAL SYSTEMS LightSpeed VCT", "GE", "monai_rd", "Canon"]
)
def test_known_makers_are_named(name: str) -> None:
    assert scanner(name) == name


@pytest.mark.parametrize("name", ["Doe^Jane", "Gerda Plantedname", "Dr. Siemens", "Scanner of Ward 3"])
def test_others_are_told_apart_but_not_named(name: str) -> None:
    told = str(scanner(name))
    assert re.fullmatch(r"another \(\d{4}\)", told)
    assert told == scanner(name) != scanner(name + " II")


def test_no_scanner_is_none() -> None:
    assert scanner("") is None

"""What a student was trained on is told, and what is unlike it is refused or flagged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from monai_rd.errors import OutOfScopeError, Policy
from monai_rd.transforms import HeaderInScoped, IntensitiesInScoped, scope_of

CHEST = {"modality": "CT", "body_part": "CHEST", "orientation": "axial"}


def images(low: float = 0.2, high: float = 0.6) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [{"image": MetaTensor(low + (high - low) * torch.rand(2, 3, 16, 16, generator=generator))} for _ in range(5)]


@pytest.fixture
def scope() -> dict[str, Any]:
    return scope_of([CHEST, CHEST | {"body_part": ""}, CHEST | {"orientation": "oblique"}], images())


def test_the_scope_is_what_occurs(scope: dict[str, Any]) -> None:
    assert scope["modality"] == ["CT"]
    assert scope["body_part"] == ["CHEST"]
    assert scope["orientation"] == ["axial", "oblique"]
    low, high = scope["levels"]["median"]
    assert 0.35 < low <= high < 0.45
    assert scope["levels"]["bright end (95 %)"][1] == pytest.approx(0.58, abs=0.01)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"modality": "MR"}, "WRONG_MODALITY"),
        ({"body_part": "ABDOMEN"}, "WRONG_BODY_PART"),
        ({"orientation": "sagittal"}, "WRONG_ORIENTATION"),
    ],
)
def test_another_header_is_refused_or_flagged(scope: dict[str, Any], change: dict[str, str], code: str) -> None:
    with pytest.raises(OutOfScopeError) as caught:
        HeaderInScoped("image", scope)(CHEST | change)
    assert caught.value.code == code
    assert next(iter(change.values())) in str(caught.value)
    flagged = HeaderInScoped("image", scope, {code: "warn"})(CHEST | change)
    assert flagged["flags"] == code
    two = HeaderInScoped("image", scope, {code: "warn"})(CHEST | change | {"flags": "BEFORE"})
    assert two["flags"] == f"BEFORE|{code}"


def test_what_is_not_known_is_not_judged(scope: dict[str, Any]) -> None:
    assert HeaderInScoped("image", scope)({"modality": "", "body_part": ""})["flags"] == ""
    figures = scope_of([dict.fromkeys(CHEST, "")], images())
    assert HeaderInScoped("image", figures)(CHEST | {"modality": "MR"})["flags"] == ""
    for transform in (HeaderInScoped, IntensitiesInScoped):
        assert transform("image", None)({"image": torch.zeros(4), "modality": "MR"})["flags"] == ""


@pytest.mark.parametrize(
    ("low", "high", "fits"), [(0.2, 0.6, True), (0.25, 0.62, True), (0.0, 0.05, False), (0.6, 1, False)]
)
def test_far_intensities_are_refused_or_flagged(scope: dict[str, Any], low: float, high: float, fits: bool) -> None:
    item = images(low, high)[0]
    if fits:
        assert IntensitiesInScoped("image", scope)(item)["flags"] == ""
        return
    with pytest.raises(OutOfScopeError, match="of the training's images") as caught:
        IntensitiesInScoped("image", scope)(item)
    assert caught.value.code == "UNUSUAL_INTENSITIES"
    warned = IntensitiesInScoped("image", scope, {"UNUSUAL_INTENSITIES": "warn"})(item | {"flags": "WRONG_BODY_PART"})
    assert warned["flags"] == "WRONG_BODY_PART|UNUSUAL_INTENSITIES"


def test_a_contrast_that_is_gone_is_seen_at_the_same_brightness(scope: dict[str, Any]) -> None:
    flat = {"image": torch.full((2, 3, 16, 16), 0.4)}
    with pytest.raises(OutOfScopeError):
        IntensitiesInScoped("image", scope)(flat)


def test_the_codes_can_be_policies() -> None:
    assert Policy({"WRONG_MODALITY": "warn"})["WRONG_MODALITY"] == "warn"
    with pytest.raises(ValueError, match="no code"):
        Policy({"OUT_OF_SCOPE": "skip"})

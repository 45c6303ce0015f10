"""Screen values to 0 to 1."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_rd.errors import WrongIntensityError
from monai_rd.transforms import DisplayIntensityd


@pytest.mark.parametrize("shape", [(1, 4, 3), (9, 4, 3), (1, 5, 4, 3)])
@pytest.mark.parametrize("meta", [{}, {"modality": "CR"}, {"modality": "DX"}])
def test_a_value_is_what_the_screen_shows(shape: tuple[int, ...], meta: dict[str, str]) -> None:
    values = torch.randint(0, 256, shape).float()
    image = MetaTensor(values, meta={"intensity": "display", **meta})
    found = DisplayIntensityd("image", ["CR", "DX"])({"image": image, "label": 1})
    assert torch.equal(found["image"].as_tensor(), values / 255)
    assert found["image"].meta["intensity"] == "unit"
    assert found["label"] == 1


@pytest.mark.parametrize(
    ("intensity", "meta", "said"),
    [
        ("display", {"modality": "MR"}, "modality 'MR' was given where CR, DX is expected"),
        ("HU", {}, "got 'HU' values"),
        ("unstated", {}, "got 'unstated' values"),
        ("unit", {}, "got 'unit' values"),
    ],
)
def test_what_is_no_picture_is_refused(intensity: str, meta: dict[str, str], said: str) -> None:
    image = MetaTensor(torch.rand(1, 4, 4), meta={"intensity": intensity, **meta})
    with pytest.raises(WrongIntensityError, match=said):
        DisplayIntensityd("image", ["CR", "DX"])({"image": image})

"""Intensities of images made for viewing (ultrasound, radiographs, photographs): screen values in [0, 1].

A value is the screen value (0 to 255) divided by 255, from an 8-bit image or from DICOM after its VOI LUT or window,
white on black. Contrast is not stretched: vendors and radiographers choose the brightness and augmentation covers its
spread, whereas a stretch by percentiles would make an image depend on how it was cropped.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.config import KeysCollection
from monai.data import MetaTensor

from monai_rd.errors import WrongIntensityError
from monai_rd.transforms.each import EachImaged

__all__ = ["DisplayIntensityd", "check_display"]


class DisplayIntensityd(EachImaged):
    """Scale screen values 0 to 255 of an image of any shape to [0, 1].

    Args:
        keys: keys of the item to transform; each a MetaTensor whose `meta["intensity"]` is "display".
        modalities: the modalities that a DICOM image may have, such as `["US"]` or `["CR", "DX"]`.

    Raises:
        WrongIntensityError: DICOM of another modality; values that are not screen values.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from monai_rd.transforms import DisplayIntensityd
        >>> image = MetaTensor(torch.tensor([[[0.0, 51.0, 255.0]]]), meta={"intensity": "display"})
        >>> DisplayIntensityd("image", modalities=["CR", "DX"])({"image": image})["image"].tolist()
        [[[0.0, 0.20000000298023224, 1.0]]]
    """

    def __init__(self, keys: KeysCollection, modalities: Sequence[str]) -> None:
        super().__init__(keys)
        self.modalities = tuple(modalities)

    def _transform(self, image: MetaTensor) -> MetaTensor:
        check_display(image, self.modalities)
        return MetaTensor(image.as_tensor() / 255, meta={**image.meta, "intensity": "unit"})


def check_display(image: MetaTensor, modalities: Sequence[str]) -> None:
    """Check that an image holds screen values and, if it was DICOM, has an accepted modality.

    Args:
        image: with `meta["intensity"]`, and `meta["modality"]` where it was DICOM.
        modalities: the accepted modalities.

    Raises:
        WrongIntensityError: it does not.
    """
    modality, intensity = image.meta.get("modality"), image.meta.get("intensity")
    if modality is not None and modality not in modalities:
        raise WrongIntensityError(
            f"a DICOM image of modality '{modality}' was given where {', '.join(modalities)} is expected"
        )
    if intensity != "display":
        raise WrongIntensityError(
            f"a picture as shown on a screen (8-bit image, or DICOM of {', '.join(modalities)}) is needed, got "
            f"'{intensity}' values"
        )

"""Pictures that are looked at (ultrasound, radiographs, photographs): the grey or colour of the screen, 0 to 1.

One definition: a value is what a screen shows divided by 255, from an 8-bit image or from DICOM after its VOI LUT or
window, white on black. Nothing is stretched: brightness is a choice that a vendor or a radiographer made, augmentation
covers its spread, and a stretch by percentiles would make an image depend on how it was cropped.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.config import KeysCollection
from monai.data import MetaTensor

from monai_rd.errors import WrongIntensityError
from monai_rd.transforms.each import EachImaged

__all__ = ["DisplayIntensityd", "check_display"]


class DisplayIntensityd(EachImaged):
    """Screen values 0 to 255 of any shape to [0, 1].

    Args:
        keys: keys of the item to transform; each a MetaTensor whose `meta["intensity"]` is "display".
        modalities: what a DICOM image may be, such as `["US"]` or `["CR", "DX"]`.

    Raises:
        WrongIntensityError: DICOM of another modality; values that are no screen values.
    """

    def __init__(self, keys: KeysCollection, modalities: Sequence[str]) -> None:
        super().__init__(keys)
        self.modalities = tuple(modalities)

    def _transform(self, image: MetaTensor) -> MetaTensor:
        check_display(image, self.modalities)
        return MetaTensor(image.as_tensor() / 255, meta={**image.meta, "intensity": "unit"})


def check_display(image: MetaTensor, modalities: Sequence[str]) -> None:
    """Refuse what is no picture of one of the modalities.

    Args:
        image: with `meta["intensity"]`, and `meta["modality"]` where it was DICOM.
        modalities: those of DICOM that are wanted.

    Raises:
        WrongIntensityError: it is none.
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

"""What the page shows of a study: what it is, what the student says, and its slices as pictures."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from monai_rd.datasets.studies import files_of_item
from monai_rd.dicom.header import describe
from monai_rd.dicom.parsing import read_file
from monai_rd.integrations.explanation import looks, picture_of
from monai_rd.report.gallery import overlay

if TYPE_CHECKING:
    from monai_rd.inference import Prediction, Predictor

__all__ = ["FLAGS", "Answer", "Drawn", "about", "draw", "slice_of", "whole_of"]

# What the codes of flags mean, in simple words; others are shown as they are.
FLAGS = {
    "WRONG_MODALITY": "another kind of image than the network has learned from",
    "WRONG_ORIENTATION": "slices in another direction than the network has learned from",
    "WRONG_BODY_PART": "another part of the body than the network has learned from",
    "UNUSUAL_INTENSITIES": "brighter, darker or of another contrast than what the network has learned from",
    "UNKNOWN_GROUP": "a scanner or hospital that the network does not know",
    "THICK_SLICES": "thick slices",
    "SMALL_FIELD": "the images show less of the body than the network expects",
    "CUT_OFF": "a part of the body that the network looks at is cut off",
}
_SIDE = 768  # pixels of a picture
_NO_KEY = secrets.token_bytes(32)  # pseudonyms are not used here


@dataclass(frozen=True)
class Drawn:
    """The pictures of a study, which lie in the folder of its upload.

    Attributes:
        name: the class that the heat is for.
        method: how the heat was made.
        shown: the slice with the most evidence, from 1.
        places: of each slice which image it is, in words.
        values: of each slice, in [0, 1], see `Look.value`.
    """

    name: str
    method: str
    shown: int
    places: tuple[str, ...]
    values: tuple[float, ...]


@dataclass
class Answer:
    """One study of an upload.

    Attributes:
        prediction: of the student.
        about: modality, number of files and description, without names.
        drawn: its pictures, None as long as there are none.
        failed: whether they cannot be made.
    """

    prediction: Prediction
    about: str = ""
    drawn: Drawn | None = None
    failed: bool = field(default=False)


def about(item: Mapping[str, Any]) -> str:
    """Return modality, number of files, body part and description of an item of `find_studies`, without names.

    A study of several series has no description of its own.
    """
    files = files_of_item(item)
    words = ["1 file" if len(files) == 1 else f"{len(files)} files"]
    if item["series"]:
        read = read_file(str(files[0]), pixels=False)
        if read is not None:
            header = describe(read, _NO_KEY)
            alone = (header.description, item["volume"]) if "|" not in item["series"] else ()
            words = [header.modality, *words, header.origin.body_part, *alone]
    return ", ".join(dict.fromkeys(word for word in words if word))


def draw(predictor: Predictor, prediction: Prediction, folder: Path, number: int, between: Callable[[], None]) -> Drawn:
    """Write the pictures of a scored study into a folder, see `slice_of` and `whole_of`; `between` as of `looks`."""
    found = looks(predictor, prediction, between)
    for place, one in enumerate(found.slices, start=1):
        _save(one.pixels, one.aspect, slice_of(folder, number, "image", place))
        _save(overlay(one.pixels, one.heat), one.aspect, slice_of(folder, number, "heat", place))
    picture = picture_of(found.best, prediction, predictor.algorithm)
    Image.fromarray(picture).save(whole_of(folder, number))
    places, values = tuple(one.place for one in found.slices), tuple(one.value for one in found.slices)
    return Drawn(found.best.name, found.best.method, found.at + 1, places, values)


def slice_of(folder: Path, number: int, kind: str, place: int) -> Path:
    """Return the path of a picture of a slice: the "image", or with "heat", of a study by number."""
    return folder / f"study_{number:06d}_{kind}_{place:06d}.jpg"


def whole_of(folder: Path, number: int) -> Path:
    """Return the path of the picture that `monai-rd predict --sc` would put into DICOM."""
    return folder / f"study_{number:06d}.png"


def _save(pixels: np.ndarray, aspect: float, path: Path) -> None:
    """Write a picture with square pixels, at most 768 a side."""
    image = Image.fromarray(pixels)
    width, height = image.width, image.height * aspect
    scale = min(1.0, _SIDE / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image.resize(size, Image.Resampling.LANCZOS).save(path, quality=90)

"""Positions of the frames of an image in the patient, or the reason why they have none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset

from monai_rd.dicom.values import all_numbers, items, numbers, parts
from monai_rd.spacing_limits import MAX_SPACING_MM, MIN_SPACING_MM

__all__ = ["Plane", "functional_groups", "macro", "nuclear_kind", "nuclear_planes", "plane_of", "why_no_planes"]


@dataclass(frozen=True, slots=True)
class Plane:
    """Plane of a frame: position in mm (LPS), direction cosines (row 3, column 3), (row, column) spacing in mm."""

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]


def functional_groups(dataset: Dataset) -> tuple[tuple[Dataset, ...], tuple[Dataset, ...]]:
    """Return the shared and the per-frame functional groups of an enhanced object, () if absent."""
    try:
        return (
            items(dataset, "SharedFunctionalGroupsSequence"),
            items(dataset, "PerFrameFunctionalGroupsSequence"),
        )
    except Exception:  # a damaged sequence counts as absent
        return (), ()


def macro(dataset: Dataset, groups: Iterable[Dataset], sequence: str) -> Dataset:
    """Return the item of a functional group macro from the first group with it; if none has it, the data set."""
    for group in groups:
        try:
            found = items(group, sequence)
            if found:
                return found[0]
        except Exception:  # a damaged macro counts as absent
            continue
    return dataset


def plane_of(dataset: Dataset, groups: tuple[Dataset, ...]) -> Plane | None:
    """Return the plane of a frame, None if it is not stated or invalid."""
    place, turn = (macro(dataset, groups, f"Plane{what}Sequence") for what in ("Position", "Orientation"))
    return _stated_plane(place, turn, macro(dataset, groups, "PixelMeasuresSequence"))


def _stated_plane(place: Dataset, turn: Dataset, measures: Dataset) -> Plane | None:
    position, orientation = numbers(place, "ImagePositionPatient", 3), numbers(turn, "ImageOrientationPatient", 6)
    spacing = numbers(measures, "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None:
        return None
    if not MIN_SPACING_MM <= min(spacing) <= max(spacing) <= MAX_SPACING_MM:
        return None
    a, b, c, d, e, f = orientation  # two orthogonal unit vectors?
    if max(abs(a * a + b * b + c * c - 1), abs(d * d + e * e + f * f - 1), abs(a * d + b * e + c * f)) > 1e-3:
        return None
    return Plane(position, orientation, spacing)


def nuclear_kind(dataset: Dataset) -> str:
    """Return the kind of a nuclear medicine image: "PLANAR", "TOMO" (tomographic projections), "RECON" (slices)."""
    kind = "".join(parts(dataset, "ImageType")[2:3]).upper()  # PS3.3 C.8.4.9.1.1
    return "PLANAR" if "TOMO" not in kind else "RECON" if "RECON" in kind else "TOMO"


def nuclear_planes(dataset: Dataset, frames: int) -> tuple[Plane, ...]:
    """Return the planes of a nuclear tomography's slices, from that of the first (PS3.3 C.8.4.11 and C.8.4.15)."""
    detector = macro(dataset, (dataset,), "DetectorInformationSequence")
    place = detector if "ImagePositionPatient" in detector else dataset
    first = _stated_plane(place, detector if "ImageOrientationPatient" in detector else dataset, dataset)
    between = numbers(dataset, "SpacingBetweenSlices", 1) or numbers(dataset, "SliceThickness", 1)
    try:
        order = all_numbers(dataset, "SliceVector") or tuple(range(1, frames + 1))
    except Exception:  # an undecodable value counts as absent
        order = ()
    if first is None or between is None or not between[0] or len(order) != frames:
        return ()
    along = np.cross(first.orientation[:3], first.orientation[3:]) * between[0]
    places = (np.add(first.position, (number - 1) * along) for number in order)
    return tuple(replace(first, position=tuple(map(float, place))) for place in places)


def why_no_planes(modality: str, grey: bool, frames: int, groups: int, nuclear: str | None) -> str:
    """Return the reason why an image has no position in the patient, for an error message.

    Args:
        modality: modality of the image.
        grey: whether it has a single channel of measured values.
        frames: number of frames.
        groups: number of per-frame functional groups.
        nuclear: see `nuclear_kind`; None for other modalities.
    """
    if not grey:
        return (
            f"a colour image of modality {modality}, such as a screen capture or a dose report, holds no measured "
            "values. Use the original series."
        )
    if nuclear == "TOMO":
        return "the projections of a tomography, of which the slices are still to be made. Use the reconstruction."
    if groups and groups != frames:
        return f"{frames} frames but {groups} sets of frame attributes. Export the series again."
    if frames > 1 and not groups:
        return (
            f"multi-frame image ({frames} frames) without plane positions. Only enhanced multi-frame objects, which "
            "give each frame a position, can become a volume."
        )
    return (
        f"{modality} without a valid ImagePositionPatient, ImageOrientationPatient or PixelSpacing, so it has no place "
        "in the patient (a secondary capture, or a file that lost its geometry). Use the original series."
    )

"""Loading of one DICOM series as a volume or picture, or an error that says what to do.

MONAI's readers stack all files of a folder: two series become one volume, a missing slice distorts the volume, a
constant ``InstanceNumber`` shuffles the slices, all without an error. Here a series is read only if its headers
describe one regular stack of parallel slices, or one picture; anything else raises a `DicomSeriesError` with a stable
code.

Not for clinical use.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from monai_rd.dicom import codecs, pixels, stored
from monai_rd.dicom.classes import is_image
from monai_rd.dicom.frames import Frame, SeriesFiles
from monai_rd.dicom.geometry import arrange, lps_affine
from monai_rd.dicom.header import Header, Region, describe, regions
from monai_rd.dicom.header_warnings import log_warnings_once
from monai_rd.dicom.parsing import read_file
from monai_rd.dicom.unnamed import named
from monai_rd.dicom.values import numbers
from monai_rd.errors import NoDicomError, NoHounsfieldError, Policy, UnreadableFileError
from monai_rd.walk import walk

__all__ = ["SeriesVolume", "load_series"]

logger = logging.getLogger(__name__)

# Patient keys are not used here.
_NO_KEY = secrets.token_bytes(32)
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class SeriesVolume:
    """A DICOM series read as a volume, or as a picture.

    Attributes:
        array: float32 `[C, X, Y, Z]`: C = 1 for grey, 3 for RGB; X = columns, Y = rows, Z = slices, or frames of a
            picture; in the memory order of nibabel (X fastest).
        affine: float64 `[4, 4]`, voxel index (x, y, z, 1) to mm in RAS+ world (DICOM's LPS with x and y negated). For a
            picture it is that of an axial slice.
        spacing: mm between voxel centres along x, y, z; for a picture 1 along frames, and where it is not stated.
        modality: such as "CT".
        series_uid: ``SeriesInstanceUID``.
        intensity: "HU"; "display" for 0 to 255 as shown on a screen, white on black; "arbitrary" for anything else.
        picture: it has no position in the patient: a radiograph, an ultrasound, a colour image.
        tolerated: codes of the problems that the policy tolerated.
        regions: regions of an ultrasound picture and their content; () if not stated.
        images: for each slice (frame of a picture) along z its ``InstanceNumber``, 0 if not stated, and which frame of
            its file it is, from 1; 0 if the file has one.

    Example:
        >>> from pathlib import Path
        >>> from monai_rd.dicom import load_series
        >>> from monai_rd.phantoms import ct
        >>> ct.write_study(Path("series"), "clear", seed=0, number=1)  # a synthetic CT series
        >>> volume = load_series("series")
        >>> volume.array.ndim, volume.affine.shape, volume.intensity
        (4, (4, 4), 'HU')
    """

    array: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    spacing: tuple[float, float, float]
    modality: str
    series_uid: str
    intensity: str
    picture: bool = False
    tolerated: tuple[str, ...] = ()
    regions: tuple[Region, ...] = ()
    images: tuple[tuple[int, int], ...] = ()


@log_warnings_once()
def load_series(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    window: bool = True,
    policy: Policy | None = None,
) -> SeriesVolume:
    """Read one DICOM series as a volume or picture, with its slices in geometric order.

    Slices ascend along row direction x column direction, as in ITK: from inferior to superior for an axial series. The
    values depend on the modality:

    - CT, PT, NM: values after the rescale (of each frame, if it has its own); HU for CT. No window, no inversion.
    - Other volumes (MR): grey 0 to 255 in the window of the file, MONOCHROME1 inverted. If the windows of slices
      differ, all slices use the range that covers them. If a slice has no window, or with `window=False`: the rescaled
      values, MONOCHROME1 mirrored between the lowest and highest value.
    - Pictures (CR, DX, MG, US, colour photographs): as shown on a screen: VOI LUT or window, MONOCHROME1 inverted, YBR
      and palette colours converted to RGB.

    Pixels outside the field of view (``PixelPaddingValue``) get one value for the whole series: -1024 for HU, black in
    windowed volumes and pictures, else the lowest of all other values.

    Args:
        source: a folder (files directly in it; those that are not DICOM images are skipped), one file, or the files of
            one series in any order. An enhanced multi-frame object or a picture is one file.
        window: apply the window of the file to volumes of modalities other than CT, PT and NM.
        policy: problems whose code is set to "warn" are tolerated, see `StudyError.tolerable`; others raise.

    Raises:
        DicomSeriesError: one of its subclasses, each with a stable code, the series' UID and the remedy.
        InvalidValuesError: some floating-point pixels are not finite.
        UnreadableFileError: a file cannot be opened.
    """
    read = _read_source(source)
    headers = [
        header for _, header in named([(path, describe(dataset, _NO_KEY, words=False)) for path, dataset in read])
    ]
    datasets = dict(enumerate(dataset for _, dataset in read))
    del read  # so that files are freed as they are decoded
    actions = policy or Policy()
    only = source.frames if isinstance(source, SeriesFiles) else ()
    frames, tolerated, problem = arrange(headers, lambda kind: actions[kind.code] == "warn", only)
    if problem is not None:
        raise problem
    for error in tolerated:
        logger.warning("%s (%s) Read all the same, as the policy says: %s.", error, error.code, error.tolerable)
    first = headers[frames[0].file]
    if first.picture:
        return _picture(datasets[0], first)

    affine = lps_affine(frames)
    measured = first.modality in pixels.MEASURED
    shown = None
    if window and not measured:
        shown = pixels.common_window([(datasets[frame.file], frame.number) for frame in frames])
    intensity = "display" if shown else "arbitrary"
    if first.modality == "CT" and not any(isinstance(error, NoHounsfieldError) for error in tolerated):
        intensity = "HU"
    padding = pixels.CT_PADDING_HU if intensity == "HU" else None
    stack = _stack(datasets, headers, frames, shown, padding)
    return SeriesVolume(
        array=stack.transpose(2, 1, 0)[None],
        affine=_RAS_FROM_LPS @ affine + 0.0,  # + 0.0 turns -0.0 into 0.0
        spacing=_spacing(affine),
        modality=first.modality,
        series_uid=first.series_uid,
        intensity=intensity,
        tolerated=tuple(error.code for error in tolerated),
        images=tuple(
            (one.header.instance_number, one.number + 1 if len(one.header.planes) > 1 else 0) for one in frames
        ),
    )


def _stack(
    datasets: dict[int, Dataset],
    headers: Sequence[Header],
    frames: Sequence[Frame],
    window: pixels.Window | None,
    padding: float | None,
) -> npt.NDArray[np.float32]:
    """Decode all frames into one array `[slices, rows, columns]`; `datasets` is emptied."""
    places: dict[int, list[int]] = {}
    for place, frame in enumerate(frames):
        places.setdefault(frame.file, []).append(place)
    for file in places:
        stored.check_pixels(datasets[file], headers[file])
    stack = np.empty((len(frames), *frames[0].header.shape), dtype=np.float32)
    inverse = headers[frames[0].file].modality not in pixels.MEASURED and pixels.is_inverse(datasets[frames[0].file])

    def decode(file: int) -> bool:
        dataset, header = datasets.pop(file), headers[file]
        slots = [stack[place] for place in places[file]]
        padded = pixels.grey_frames(dataset, header, [frames[place].number for place in places[file]], slots)
        if window is not None:
            for slot in slots:
                outside = np.isnan(slot) if padded else None
                window.show(slot)
                if inverse:
                    np.subtract(255, slot, out=slot)
                if outside is not None:
                    slot[outside] = 0  # black
        return padded and window is None

    # Decoders release Python's GIL; for uncompressed pixels threads would only add overhead.
    if any(codecs.decoder(headers[file].syntax) is not None for file in places):
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            padded = any(list(pool.map(decode, places)))
    else:
        padded = any([decode(file) for file in places])
    datasets.clear()
    if inverse and window is None:
        np.subtract(np.fmin.reduce(stack, axis=None) + np.fmax.reduce(stack, axis=None), stack, out=stack)
    if padded:
        pixels.fill_outside(stack, padding)
    return stack


def _picture(dataset: Dataset, header: Header) -> SeriesVolume:
    array = pixels.picture(dataset, header)
    found = numbers(dataset, "PixelSpacing", 2) or numbers(dataset, "ImagerPixelSpacing", 2)
    rows, columns = found if found and min(found) > 0 else (1.0, 1.0)
    count = array.shape[1]
    return SeriesVolume(
        array=array.transpose(0, 3, 2, 1),
        affine=np.diag([-columns, -rows, 1.0, 1.0]),
        spacing=(columns, rows, 1.0),
        modality=header.modality,
        series_uid=header.series_uid,
        intensity="display",
        picture=True,
        regions=regions(dataset),
        images=tuple((header.instance_number, frame if count > 1 else 0) for frame in range(1, count + 1)),
    )


def _spacing(affine: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def _read_source(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[tuple[Path, Dataset]]:
    """Parse the image files of the `source` of `load_series`."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if os.path.isdir(path):
            files, closed = walk(path, below=False)
            if closed:
                raise UnreadableFileError(
                    f"{len(closed)} of what lies in the folder, or the folder itself, cannot be opened. Check rights, "
                    "and where links lead: a slice could be among it."
                )
            read = [(file, read_file(file, pixels=True)) for file in files]
            datasets = [(file, dataset) for file, dataset in read if dataset is not None and is_image(dataset)]
            if not datasets:
                raise NoDicomError(
                    f"The folder holds no DICOM image directly in it ({len(read)} other file(s)). Subfolders are not "
                    "read; monai-rd index (in Python index_dicom) finds the series in them."
                )
            skipped = len(read) - len(datasets)
            if skipped:
                logger.info("load_series: %d file(s) that are no DICOM images were skipped", skipped)
            return datasets
        if not os.path.lexists(path):
            raise NoDicomError("The file or folder given does not exist.")
        paths: list[str | os.PathLike[str]] = [path]
    else:
        paths = list(source)
        if not paths:
            raise NoDicomError("The list of files is empty.")
    datasets = []
    failed = 0
    for entry in paths:
        dataset = read_file(entry, pixels=True)
        if dataset is None:
            failed += 1
            continue
        datasets.append((Path(entry), dataset))
    if failed:
        raise NoDicomError(f"{failed} of {len(paths)} given files: not readable as DICOM.")
    return datasets
